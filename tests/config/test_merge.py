"""Layers merged into one tree, with a composite of two registries that is not part of the detector."""

import pytest

from detlite.config.layers import CommandLineText, Layer
from detlite.config.merge import merge
from detlite.errors import UserError
from detlite.parts import Registry, Slot, SlotList

WHEELS = Registry("WHEEL", "")
ENGINES = Registry("ENGINE", "")
CARS = Registry("CAR", "")


@WHEELS.register()
class Round:
    def __init__(self, *, size: float = 10, spokes: int = 5): ...


@WHEELS.register()
class Square:
    def __init__(self, *, size: float = 20, corners: int = 4): ...


@ENGINES.register()
class Diesel:
    def __init__(self, *, power: int = 100): ...


@ENGINES.register()
class Electric:
    def __init__(self, *, power: int = 50, cells: list[float] = (1, 2)): ...


class Shared:
    def __init__(self, *, owner: str = "nobody"): ...


class Cabin:
    slots = {"RADIO": Slot(ENGINES, "Electric", power=1)}

    def __init__(self, *, seats: int = 4):
        if seats < 1:
            raise ValueError(f"SEATS must be at least 1, got {seats}")


@CARS.register()
class Sedan:
    slots = {
        "FRONT": Slot(WHEELS, "Round", size=1, spokes=3),
        "BACK": Slot(WHEELS, "Round"),
        "ENGINE": Slot(ENGINES, "Diesel"),
        "CABIN": Cabin,
        "SPARE": SlotList(WHEELS, [{"NAME": "Round", "SIZE": 7}]),
    }

    def __init__(self, *, doors: int = 4, color: str = "red"): ...


@CARS.register()
class Truck:
    slots = {
        "FRONT": Slot(WHEELS, "Round", size=2, spokes=30),
        "ENGINE": Slot(ENGINES, "Electric"),
        "CABIN": Cabin,
        "SPARE": SlotList(WHEELS),
        "TRAILER": Slot(WHEELS, "Square"),
    }

    def __init__(self, *, doors: int = 2, load: float = 1.0): ...


class Depot:
    slots = {"WHEEL": Slot(WHEELS, "Round", as_list=SlotList(WHEELS, shared=Shared), size=3)}

    def __init__(self): ...


class Root:
    slots = {"CAR": Slot(CARS, "Sedan", shared=Shared), "GARAGE": SlotList(CARS)}

    def __init__(self, *, seed: int = 0, factor: float = 0.5, names: list[str] = ("a",), flag: bool = False): ...


def tree(*layers):
    """The tree of layers, each nested dicts, named "layer 1" and so on."""
    return merge(Root, [Layer(f"layer {number}", values) for number, values in enumerate(layers, start=1)])


def car(**values):
    return {"CAR": values}


def test_without_layers_every_value_is_a_signatures_default():
    cfg = tree()
    assert cfg.plain() == {
        "SEED": 0,
        "FACTOR": 0.5,
        "NAMES": ["a"],
        "FLAG": False,
        "CAR": {
            "NAME": "Sedan",
            "OWNER": "nobody",
            "DOORS": 4,
            "COLOR": "red",
            "FRONT": {"NAME": "Round", "SIZE": 1.0, "SPOKES": 3},
            "BACK": {"NAME": "Round", "SIZE": 10.0, "SPOKES": 5},
            "ENGINE": {"NAME": "Diesel", "POWER": 100},
            "CABIN": {"SEATS": 4, "RADIO": {"NAME": "Electric", "POWER": 1, "CELLS": [1.0, 2.0]}},
            "SPARE": [{"NAME": "Round", "SIZE": 7.0, "SPOKES": 5}],
        },
        "GARAGE": [],
    }


def test_a_higher_layer_wins_key_by_key():
    cfg = tree({"SEED": 1, **car(DOORS=1, ENGINE={"POWER": 1})}, {"SEED": 2, **car(ENGINE={"POWER": 3})})
    assert (cfg.SEED, cfg.CAR.DOORS, cfg.CAR.ENGINE.POWER) == (2, 1, 3)


def test_slot_overrides_hold_while_the_name_is_the_default_one():
    assert tree(car(FRONT={"SIZE": 5})).CAR.FRONT.plain() == {"NAME": "Round", "SIZE": 5.0, "SPOKES": 3}
    assert tree(car(FRONT={"NAME": "Round"})).CAR.FRONT.plain() == {"NAME": "Round", "SIZE": 1.0, "SPOKES": 3}
    assert tree(car(FRONT={"NAME": "Square"})).CAR.FRONT.plain() == {"NAME": "Square", "SIZE": 20.0, "CORNERS": 4}


def test_overrides_come_back_with_the_default_name():
    cfg = tree(car(FRONT={"NAME": "Square", "SIZE": 5}), car(FRONT={"NAME": "Round"}))
    assert cfg.CAR.FRONT.plain() == {"NAME": "Round", "SIZE": 1.0, "SPOKES": 3}


def test_another_name_drops_the_keys_that_lower_layers_set():
    cfg = tree(car(BACK={"SIZE": 5, "SPOKES": 9}), car(BACK={"NAME": "Square", "CORNERS": 3}))
    assert cfg.CAR.BACK.plain() == {"NAME": "Square", "SIZE": 20.0, "CORNERS": 3}


def test_the_same_name_again_keeps_the_keys_that_lower_layers_set():
    cfg = tree(car(BACK={"SIZE": 5}), car(BACK={"NAME": "Round"}))
    assert cfg.CAR.BACK.SIZE == 5


def test_keys_next_to_a_new_name_count_before_and_after_it():
    assert tree(car(BACK={"CORNERS": 3, "NAME": "Square"})).CAR.BACK.CORNERS == 3


def test_on_a_composite_another_name_drops_its_own_keys_and_keeps_shared_ones():
    cfg = tree(car(DOORS=9, COLOR="blue", OWNER="me"), car(NAME="Truck"))
    assert (cfg.CAR.DOORS, cfg.CAR.OWNER) == (2, "me")
    assert "COLOR" not in cfg.CAR


def test_on_a_composite_another_name_keeps_nested_slots_that_both_declare():
    below = car(FRONT={"SIZE": 5}, CABIN={"SEATS": 7, "RADIO": {"POWER": 8}}, SPARE=[{"NAME": "Square"}])
    cfg = tree(below, car(NAME="Truck"))
    assert cfg.CAR.FRONT.plain() == {"NAME": "Round", "SIZE": 5.0, "SPOKES": 30}  # the truck's override for the rest
    assert (cfg.CAR.CABIN.SEATS, cfg.CAR.CABIN.RADIO.POWER) == (7, 8)
    assert cfg.CAR.SPARE[0].NAME == "Square"
    assert cfg.CAR.FRONT.sources["SIZE"] == "layer 1"


def test_on_a_composite_another_name_drops_slots_that_it_lacks():
    cfg = tree(car(BACK={"SIZE": 5}), car(NAME="Truck"))
    assert "BACK" not in cfg.CAR
    with pytest.raises(UserError, match=r"layer 3: CAR.BACK: Truck has no key BACK"):
        tree(car(BACK={"SIZE": 5}), car(NAME="Truck"), car(BACK={"SIZE": 5}))


def test_a_nested_default_that_differs_is_the_new_composites():
    cfg = tree(car(ENGINE={"POWER": 7}), car(NAME="Truck"))
    assert cfg.CAR.ENGINE.plain() == {"NAME": "Electric", "POWER": 50, "CELLS": [1.0, 2.0]}
    assert tree(car(NAME="Truck")).CAR.SPARE == []


def test_a_nested_name_that_a_layer_chose_stays():
    cfg = tree(car(ENGINE={"NAME": "Diesel", "POWER": 7}), car(NAME="Truck"))
    assert cfg.CAR.ENGINE.plain() == {"NAME": "Diesel", "POWER": 7}


def test_there_and_back_leaves_the_nested_values_and_drops_the_composites_own():
    cfg = tree(car(DOORS=9, FRONT={"SIZE": 5}), car(NAME="Truck"), car(NAME="Sedan"))
    assert (cfg.CAR.DOORS, cfg.CAR.FRONT.SIZE, cfg.CAR.FRONT.SPOKES) == (4, 5.0, 3)


def test_a_list_is_replaced_whole():
    assert list(tree({"NAMES": ["x", "y"]}, {"NAMES": ["z"]}).NAMES) == ["z"]
    cfg = tree(car(SPARE=[{"NAME": "Square"}, {"NAME": "Round"}]), car(SPARE=[{"NAME": "Round"}]))
    assert cfg.CAR.SPARE.__class__.__name__ == "ReadOnlyList"
    assert [node.plain() for node in cfg.CAR.SPARE] == [{"NAME": "Round", "SIZE": 10.0, "SPOKES": 5}]
    assert tree(car(SPARE=[])).CAR.SPARE == []


def test_an_entry_of_a_list_is_edited_by_its_number():
    cfg = tree(car(SPARE=[{"NAME": "Square"}, {"NAME": "Round"}]), car(SPARE={"0": {"SIZE": 3}, 1: {"NAME": "Square"}}))
    assert [node.plain() for node in cfg.CAR.SPARE] == [
        {"NAME": "Square", "SIZE": 3.0, "CORNERS": 4},
        {"NAME": "Square", "SIZE": 20.0, "CORNERS": 4},
    ]
    assert cfg.CAR.SPARE[0].sources == {"NAME": "layer 1", "SIZE": "layer 2", "CORNERS": "default"}


def test_an_entry_of_the_default_list_is_edited_by_its_number():
    assert tree(car(SPARE={"0": {"SPOKES": 1}})).CAR.SPARE[0].plain() == {"NAME": "Round", "SIZE": 7.0, "SPOKES": 1}


def test_a_composite_in_a_list_has_its_slots():
    cfg = tree({"GARAGE": [{"NAME": "Truck", "FRONT": {"SIZE": 5}}]}, {"GARAGE": {"0": {"FRONT": {"SPOKES": 6}}}})
    assert cfg.GARAGE[0].FRONT.plain() == {"NAME": "Round", "SIZE": 5.0, "SPOKES": 6}
    assert cfg.GARAGE[0].FRONT.path == "GARAGE.0.FRONT"


def test_an_empty_section_sets_nothing():
    assert tree({"CAR": None}, car(BACK=None)) == tree()


def test_every_leaf_knows_the_layer_that_set_it():
    cfg = tree(car(NAME="Truck", FRONT={"SIZE": 5}), {"SEED": 1}, car(FRONT={"SIZE": 6}))
    assert cfg.sources == {
        "SEED": "layer 2",
        "FACTOR": "default",
        "NAMES": "default",
        "FLAG": "default",
        "GARAGE": "default",
    }
    assert cfg.CAR.sources == {
        "NAME": "layer 1",
        "OWNER": "default",
        "DOORS": "default",
        "LOAD": "default",
        "SPARE": "default",
    }
    assert cfg.CAR.FRONT.sources == {"NAME": "default", "SIZE": "layer 3", "SPOKES": "default"}


def test_an_int_for_a_float_becomes_a_float():
    value = tree({"FACTOR": 2}).FACTOR
    assert value == 2.0
    assert isinstance(value, float)


def test_text_from_the_command_line_is_read_as_its_key_wants_it():
    cfg = tree(
        {
            "SEED": CommandLineText("1e3"),
            "FACTOR": CommandLineText("1"),
            "FLAG": CommandLineText("true"),
            "NAMES": CommandLineText("[no, '1']"),
        },
        car(
            OWNER=CommandLineText("1e3"),
            SPARE=CommandLineText("[{NAME: Square}]"),
            BACK=CommandLineText("{NAME: Square, SIZE: 2}"),
        ),
    )
    assert (cfg.SEED, cfg.FACTOR, cfg.FLAG, list(cfg.NAMES)) == (1000, 1.0, True, ["no", "1"])
    assert (cfg.CAR.OWNER, cfg.CAR.SPARE[0].NAME, cfg.CAR.BACK.SIZE) == ("1e3", "Square", 2.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"SEDE": 1}, "layer 1: SEDE: the config has no key SEDE; did you mean SEED? (there are: CAR, FACTOR, FLAG,"),
        ({"seed": 1}, "layer 1: seed: the config has no key seed; did you mean SEED?"),
        ({1: 1}, "layer 1: 1: the config has no key 1 (there are: CAR"),
        ({"CAR.DOORS": 1}, "keys with dots are for the command line; in a file write CAR: {DOORS: ...}"),
        ({"CAR.BACK.SIZE": 1}, "keys with dots are for the command line; in a file write CAR: {BACK: {SIZE: ...}}"),
        (car(DOOR=1), "layer 1: CAR.DOOR: Sedan has no key DOOR; did you mean DOORS?"),
        (car(BACK={"NAME": "Square", "SPOKES": 1}), "CAR.BACK.SPOKES: Square has no key SPOKES; did you mean"),
        (car(SEATS=1), "layer 1: CAR.SEATS: Sedan has no key SEATS; did you mean CAR.CABIN.SEATS?"),
        (car(SEED=1), "layer 1: CAR.SEED: Sedan has no key SEED; did you mean SEED?"),
        ({"POWER": 1}, "has no key POWER; did you mean CAR.ENGINE.POWER or CAR.CABIN.RADIO.POWER?"),
        (
            car(NAME="sedan"),
            "layer 1: CAR.NAME: no CAR is called 'sedan'; did you mean Sedan? (there are: Sedan, Truck)",
        ),
        (car(NAME=None), "layer 1: CAR.NAME: expected the CAR's name, got null"),
        (car(NAME=["Sedan"]), "layer 1: CAR.NAME: expected the CAR's name, got ['Sedan']"),
        ({"CAR": 5}, "layer 1: CAR is a section of keys, got 5"),
        ({"CAR": [car()]}, "layer 1: CAR is a section of keys, got [{'CAR': {}}]"),
        ({"CAR": "Sedan"}, "layer 1: CAR is a section of keys, got 'Sedan'; write CAR.NAME Sedan"),
        ({"CAR": CommandLineText("")}, "layer 1: CAR is a section of keys, got ''"),
        (car(CABIN=3), "layer 1: CAR.CABIN is a section of keys, got 3"),
        (car(CABIN={"SEATS": 0}), "layer 1: CAR.CABIN: SEATS must be at least 1, got 0"),
        ({"SEED": {"A": 1}}, "layer 1: SEED: expected a whole number, got {'A': 1}"),
        ({"SEED": [1]}, "layer 1: SEED: expected a whole number, got [1]"),
        ({"SEED": None}, "layer 1: SEED: expected a whole number, got null"),
        ({"SEED": CommandLineText("")}, "layer 1: SEED: expected a whole number, got ''"),
        ({"FLAG": CommandLineText("no")}, "layer 1: FLAG: expected true or false, got 'no'"),
        ({"NAMES": CommandLineText("[a, b")}, "layer 1: NAMES: not valid YAML: while parsing a flow sequence"),
        (
            {"NAMES": CommandLineText("a")},
            "layer 1: NAMES: expected a list of (a string), got 'a'; a list is written [a]",
        ),
        (car(SPARE={"NAME": "Round"}), "CAR.SPARE is a list of parts, got {'NAME': 'Round'}; write [{NAME: ..., ...}]"),
        (car(SPARE="Round"), "CAR.SPARE is a list of parts, got 'Round'; write [{NAME: ..., ...}]"),
        (car(SPARE=None), "CAR.SPARE is a list of parts, got null; write [{NAME: ..., ...}], or [] for none"),
        (car(SPARE=["Round"]), "layer 1: CAR.SPARE.0 is a section of keys, got 'Round'; write CAR.SPARE.0.NAME Round"),
        (car(SPARE=[None]), "layer 1: CAR.SPARE.0 needs a NAME (there are: Round, Square)"),
        (car(SPARE=[{"SIZE": 1}]), "layer 1: CAR.SPARE.0 needs a NAME"),
        (
            car(SPARE={"1": {"SIZE": 1}}),
            "layer 1: CAR.SPARE.1: there is no such entry; the list has length 1, counted from 0",
        ),
        (car(SPARE={"x": {}}), "layer 1: CAR.SPARE.x: there is no such entry"),
        (car(SPARE={"0": {"SIZ": 1}}), "layer 1: CAR.SPARE.0.SIZ: Round has no key SIZ; did you mean SIZE?"),
    ],
    ids=str,
)
def test_a_layer_that_does_not_fit_is_refused_with_layer_key_and_remedy(values, message):
    with pytest.raises(UserError) as caught:
        tree(values)
    assert message in str(caught.value)


def test_the_layer_that_is_wrong_is_named_although_a_higher_one_would_win():
    with pytest.raises(UserError, match="^layer 1: SEED: "):
        tree({"SEED": "x"}, {"SEED": 1})


def test_a_slot_without_a_default_must_be_named():
    class Rack:
        slots = {"WHEEL": Slot(WHEELS)}

        def __init__(self): ...

    with pytest.raises(UserError, match=r"^WHEEL needs a NAME \(there are: Round, Square\)"):
        merge(Rack, [])
    assert merge(Rack, [Layer("here", {"WHEEL": {"NAME": "Round"}})]).WHEEL.SIZE == 10.0


def test_an_override_that_the_default_part_does_not_have_is_refused():
    class Rack:
        slots = {"WHEEL": Slot(WHEELS, "Round", spoke=3)}

        def __init__(self): ...

    with pytest.raises(
        UserError, match="WHEEL: its slot overrides SPOKE, but Round has no such key; did you mean SPOKES"
    ):
        merge(Rack, [])


def test_a_slot_may_take_a_part_or_a_list_of_parts_with_more_keys():
    def wheel(*values):
        layers = [Layer("a layer", {"WHEEL": value}) for value in values]
        cfg = merge(Depot, layers)
        return [node.plain() for node in cfg.WHEEL] if isinstance(cfg.WHEEL, list) else cfg.WHEEL.plain()

    assert wheel() == {"NAME": "Round", "SIZE": 3, "SPOKES": 5}
    listed = [{"NAME": "Round", "OWNER": "ann"}, {"NAME": "Square", "CORNERS": 5}]
    expected = [
        {"NAME": "Round", "OWNER": "ann", "SIZE": 10, "SPOKES": 5},
        {"NAME": "Square", "OWNER": "nobody", "SIZE": 20, "CORNERS": 5},
    ]
    assert wheel({"SIZE": 4}, listed) == expected
    assert wheel(CommandLineText("[{NAME: Round}]"), {"0": {"OWNER": "bob"}})[0]["OWNER"] == "bob"
    assert wheel(listed, {"NAME": "Round", "SIZE": 5}) == {"NAME": "Round", "SIZE": 5, "SPOKES": 5}
    with pytest.raises(UserError, match="WHEEL.SIZE: there is no such entry; the list has length 2"):
        wheel(listed, {"SIZE": 4})
    with pytest.raises(UserError, match="WHEEL.OWNER: Round has no key OWNER"):
        wheel({"OWNER": "ann"})
