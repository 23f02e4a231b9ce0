"""Named parts: registration, refusals, and building from a config node."""

import importlib
import sys
import textwrap

import pytest
import torch

from detlite.config import load_config
from detlite.errors import UserError
from detlite.parts import Registry, Slot, import_modules, node_keys
from detlite.registry import MATCHERS

TAKEN = """
    from detlite.registry import MATCHERS
    @MATCHERS.register()
    class TakenForTest: ...
    """


@pytest.fixture
def things():
    return Registry("THING", "Built with ``size``.")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A function that writes a module and imports it: (name, code) -> module."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def write(name, code):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code), encoding="utf-8")
        importlib.invalidate_caches()
        names.append(name)
        return importlib.import_module(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)


class Box:
    """A thing.

    Args:
        color: its color.
        price: what it costs.
    """

    def __init__(self, size, *, color: str = "red", price: float = 1.0):
        if price < 0:
            raise ValueError(f"price must not be negative, got {price}")
        self.size, self.color, self.price = size, color, price


def test_a_registered_class_is_found_by_its_name(things):
    assert things.register()(Box) is Box
    assert things.get("Box") is Box
    assert "Box" in things
    assert list(things) == ["Box"]
    assert len(things) == 1


@pytest.mark.parametrize("decorate", [lambda registry: registry.register(), lambda registry: registry.register])
def test_the_decorator_hands_the_class_back_with_and_without_parentheses(things, decorate):
    @decorate(things)
    class Own: ...

    assert isinstance(Own, type)
    assert things.get("Own") is Own


def test_the_same_definition_again_replaces_the_first(things):
    def cell():
        @things.register()
        class Own: ...

        return Own

    first, second = cell(), cell()
    assert first is not second
    assert things.get("Own") is second


def test_another_definition_under_a_taken_name_is_refused_with_both_places(module):
    first = module("taken_first", TAKEN)
    with pytest.raises(UserError) as caught:
        module("taken_second", TAKEN)
    assert str(caught.value) == (
        f"MATCHER TakenForTest is defined twice, at {first.__file__}:3 "
        f"and at {first.__file__.replace('first', 'second')}:3; rename one"
    )
    assert MATCHERS.get("TakenForTest") is first.TakenForTest


def test_one_file_under_two_module_names_is_the_same_definition(module, tmp_path):
    file = module("one_file", TAKEN).__file__
    spec = importlib.util.spec_from_file_location("other_name", file)
    other = importlib.util.module_from_spec(spec)
    sys.modules["other_name"] = other
    spec.loader.exec_module(other)
    assert MATCHERS.get("TakenForTest") is other.TakenForTest


def test_a_reloaded_module_replaces_its_parts(module):
    plugin = module("reloaded", TAKEN)
    old = MATCHERS.get("TakenForTest")
    importlib.reload(plugin)
    assert MATCHERS.get("TakenForTest") is plugin.TakenForTest is not old


def test_an_unknown_name_is_answered_with_the_names_the_nearest_and_how_to_import(things):
    things.register()(Box)
    with pytest.raises(UserError) as caught:
        things.get("box")
    assert str(caught.value) == (
        "no THING is called 'box'; did you mean Box? (there are: Box); "
        "a custom part needs its module in IMPORTS or after --import"
    )


def test_a_signature_that_no_config_could_use_is_refused_at_registration(things):
    class Bare:
        def __init__(self, *, depth=3): ...

    with pytest.raises(UserError, match="depth is a config key and so needs an annotation"):
        things.register()(Bare)
    assert "Bare" not in things


def test_a_parameter_named_as_a_slot_is_refused_at_registration(things):
    class Composite:
        slots = {"MATCHER": Slot(MATCHERS, "MaxIoUMatcher")}

        def __init__(self, *, matcher: str = ""): ...

    with pytest.raises(UserError, match="MATCHER is both a slot and a keyword-only parameter"):
        things.register()(Composite)


def test_a_node_is_a_constructor_call(things):
    things.register()(Box)
    box = things.build({"NAME": "Box", "COLOR": "blue", "PRICE": 3}, 7)
    assert (box.size, box.color, box.price) == (7, "blue", 3.0)
    assert isinstance(box.price, float)


def test_a_function_can_be_a_part(things):
    @things.register()
    def box(size, *, price: float = 2.0):
        return Box(size, price=price)

    assert things.build({"NAME": "box"}, 7).price == 2.0


def test_keys_of_the_class_above_are_set_through_var_keywords(things):
    @things.register()
    class Crate(Box):
        def __init__(self, size, *, lid: bool = False, **kwargs):
            super().__init__(size, **kwargs)
            self.lid = lid

    crate = things.build({"NAME": "Crate", "LID": True, "COLOR": "green"}, 1)
    assert (crate.lid, crate.color, crate.price) == (True, "green", 1.0)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"NAME": "Box", "COLOUR": "x"}, "THING: Box has no key COLOUR; did you mean COLOR?"),
        ({"NAME": "Box", "color": "x"}, "THING: Box has no key color; did you mean COLOR?"),
        ({"NAME": "Box", "PRICE": "x"}, "THING: Box: PRICE: expected a number, got 'x'"),
        ({"NAME": "Box", "PRICE": -1}, "THING: Box: price must not be negative, got -1.0"),
        ({"COLOR": "x"}, "no THING is called None"),
    ],
)
def test_a_node_of_ones_own_is_checked_as_it_is_built(things, node, message):
    things.register()(Box)
    with pytest.raises(UserError) as caught:
        things.build(node, 7)
    assert message in str(caught.value)


def test_a_value_that_the_part_refuses_is_reported_with_its_path_in_the_config():
    cfg = load_config(opts=["MODEL.ROI_HEADS.MATCHER.FOREGROUND_IOU", "0.2"])
    with pytest.raises(UserError, match=r"^MODEL\.ROI_HEADS\.MATCHER: MaxIoUMatcher: need 0 <= .*0\.2"):
        MATCHERS.build(cfg.MODEL.ROI_HEADS.MATCHER)


def test_an_impossible_size_is_reported_with_its_path_in_the_config(things):
    @things.register()
    class Layer(torch.nn.Linear):
        def __init__(self, *, width: int = 1):
            super().__init__(1, width)

    with pytest.raises(UserError, match="^THING: Layer: .*negative dimension"):
        things.build({"NAME": "Layer", "WIDTH": -1})


def test_a_mistake_in_a_parts_code_stays_a_traceback(things):
    @things.register()
    class Broken:
        def __init__(self):
            raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        things.build({"NAME": "Broken"})


def test_a_composite_builds_its_own_collaborators(things):
    @things.register()
    class Composite:
        def __init__(self, box, *, weight: float = 1.0):
            self.box, self.weight = box, weight

        slots = {"BOX": Slot(things, "Box")}

        @classmethod
        def from_config(cls, node, size):
            return cls(things.build(node["BOX"], size), weight=node["WEIGHT"])

    things.register()(Box)
    built = things.build({"NAME": "Composite", "BOX": {"NAME": "Box", "PRICE": 5}, "WEIGHT": 2}, 7)
    assert (built.box.size, built.box.price, built.weight) == (7, 5.0, 2.0)


def test_a_node_has_the_keys_that_its_slot_shares_and_then_its_parts(things):
    class Shared:
        def __init__(self, *, owner: str = "", price: float = 7.0): ...

    slot = Slot(things, shared=Shared)
    assert list(node_keys(slot, None)) == ["OWNER", "PRICE"]
    keys = node_keys(slot, Box)
    assert list(keys) == ["OWNER", "PRICE", "COLOR"]
    assert {name: key.owner for name, key in keys.items()} == {"OWNER": Shared, "PRICE": Box, "COLOR": Box}
    assert list(node_keys(Box, Box)) == ["COLOR", "PRICE"]  # a section without NAME


def test_a_registry_prints_its_names(things):
    things.register()(Box)
    assert "Box" in repr(things)


def test_every_module_of_a_package_is_imported_and_what_fails_in_one_is_raised(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "slots_of_a_test" / "inner"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package.parent / "near.py").write_text("")
    (package / "deep.py").write_text("")
    importlib.import_module("slots_of_a_test")
    import_modules("slots_of_a_test")
    assert {"slots_of_a_test.near", "slots_of_a_test.inner.deep"} <= set(sys.modules)
    (package / "wrong.py").write_text("import no_such_module")
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        import_modules("slots_of_a_test")
    for name in [name for name in sys.modules if name.startswith("slots_of_a_test")]:
        del sys.modules[name]
