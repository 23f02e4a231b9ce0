"""The keys that a class lets a config set, and the conversion of a config's values."""

import inspect
import math
from typing import Literal

import pytest

from detlite.errors import UserError
from detlite.signature import (
    batch_method,
    config_keys,
    constructor_arguments,
    convert,
    describe_type,
    where_defined,
)

NOTHING = {}


class Base:
    """A part.

    Args:
        channels: handed by the model.
        depth: how many layers,
            and more about it
        width (float): how wide.
        mode:
            on its own line.

    Returns:
        other: is no argument.
    """

    def __init__(self, channels, *, depth: int = 16, width: float = 1, mode: Literal["a", "b"] = "a"): ...


class Child(Base):
    """Another one.

    Args:
        extra: only here.
        width: wider.
    """

    def __init__(self, channels, *, extra: bool = False, width: float = 2, **kwargs): ...


class Strict(Base):
    """Takes over nothing."""

    def __init__(self, channels, *, own: int = 1): ...


class Silent(Base):
    """Has no constructor."""


def test_keyword_only_parameters_are_the_keys_in_capitals_and_in_order():
    assert list(config_keys(Base)) == ["DEPTH", "WIDTH", "MODE"]


def test_a_key_knows_annotation_default_docstring_line_and_owner():
    key = config_keys(Base)["DEPTH"]
    assert (key.annotation, key.default, key.doc, key.owner) == (int, 16, "how many layers, and more about it", Base)


def test_a_default_has_the_type_of_its_annotation():
    assert isinstance(config_keys(Base)["WIDTH"].default, float)


def test_docstring_lines_may_name_a_type_or_stand_on_the_next_line():
    assert config_keys(Base)["WIDTH"].doc == "how wide."
    assert config_keys(Base)["MODE"].doc == "on its own line."


def test_var_keywords_take_over_the_keys_of_the_class_above():
    keys = config_keys(Child)
    assert list(keys) == ["EXTRA", "WIDTH", "DEPTH", "MODE"]
    assert {name: key.owner for name, key in keys.items()} == {
        "EXTRA": Child,
        "WIDTH": Child,
        "DEPTH": Base,
        "MODE": Base,
    }
    assert (keys["WIDTH"].default, keys["WIDTH"].doc) == (2, "wider.")


def test_without_var_keywords_nothing_is_taken_over():
    assert list(config_keys(Strict)) == ["OWN"]


def test_a_class_without_a_constructor_has_its_bases_keys():
    assert config_keys(Silent) == config_keys(Base)


def test_a_function_that_returns_a_part_has_keys():
    def part(channels, *, depth: int = 3):
        """A part.

        Args:
            depth: layers.
        """

    assert config_keys(part)["DEPTH"].doc == "layers."


def test_var_keywords_reach_through_two_generations():
    class Grandchild(Child):
        def __init__(self, channels, *, own: int = 0, **kwargs): ...

    assert list(config_keys(Grandchild)) == ["OWN", "EXTRA", "WIDTH", "DEPTH", "MODE"]


def test_keywords_are_spelled_as_the_parameters_are():
    class Part:
        def __init__(self, *, T_max: int = 1, eta: float = 0): ...

    assert constructor_arguments(Part, {"T_MAX": 7, "NAME": "Part", "OTHER": 1}) == {"T_max": 7}


def no_annotation():
    def part(*, depth=1): ...

    return part


def no_default():
    def part(*, depth: int): ...

    return part


def unknown_type():
    def part(*, depth: dict = NOTHING): ...

    return part


def bare_list():
    def part(*, depth: list = ()): ...

    return part


def wrong_default():
    def part(*, depth: int = "x"): ...

    return part


def taken_name():
    def part(*, name: str = "x"): ...

    return part


def equal_capitals():
    def part(*, depth: int = 1, Depth: int = 1): ...

    return part


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (no_annotation, "needs an annotation and a default, such as `depth: float = 0.5`"),
        (no_default, "needs an annotation and a default"),
        (unknown_type, "cannot be annotated with <class 'dict'>; use bool, int"),
        (bare_list, "cannot be annotated with <class 'list'>; use bool, int"),
        (wrong_default, "default does not fit its annotation: expected a whole number, got 'x'"),
        (taken_name, "NAME, which is taken"),
        (equal_capitals, "DEPTH, which is taken"),
    ],
)
def test_a_signature_that_no_config_could_use_is_refused_with_file_and_line(make, expected):
    part = make()
    with pytest.raises(UserError) as caught:
        config_keys(part)
    line = inspect.getsourcelines(part)[1]
    assert str(caught.value).startswith(f"{__file__}:{line}: part: the keyword-only parameter ")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, float, 1.0),
        (-0.5, float, -0.5),
        (math.inf, float, math.inf),
        (1e3, int, 1000),
        (1.0, int, 1),
        (True, bool, True),
        ("", str, ""),
        (None, int | None, None),
        (3, int | list[int], 3),
        ([3, 4.0], int | list[int], [3, 4]),
        ((1, 2), list[float], [1.0, 2.0]),
        ([], list[str], []),
        ([[1], [2, 3]], list[list[float]], [[1.0], [2.0, 3.0]]),
        ("b", Literal["a", "b"], "b"),
        (16, Literal[11, 16], 16),
        ("auto", float | Literal["auto"], "auto"),
    ],
)
def test_a_value_becomes_what_its_annotation_says(value, annotation, expected):
    result = convert(value, annotation)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        (None, float, "expected a number, got null"),
        (True, int, "expected a whole number, got true"),
        (True, float, "expected a number, got true"),
        (0.5, int, "expected a whole number, got 0.5"),
        (math.inf, int, "expected a whole number, got inf"),
        (math.nan, float, "expected a number, got nan"),
        (10**400, float, "expected a number, got 1000"),
        ("1", int, "expected a whole number, got '1'"),
        (1, bool, "expected true or false, got 1"),
        ("no", bool, "expected true or false, got 'no'"),
        (2024, str, "expected a string, got 2024; put it in quotes"),
        (None, str, "expected a string, got null"),
        ({}, str, "expected a string, got {}"),
        ("cat", list[str], "expected a list of (a string), got 'cat'; a list is written [cat]"),
        (["a", 1], list[str], "entry 1: expected a string, got 1; put it in quotes"),
        ([[1], ["x"]], list[list[int]], "entry 1: entry 0: expected a whole number, got 'x'"),
        ("x", int | list[int], "expected a whole number or a list of (a whole number), got 'x'"),
        ("bb", Literal["aa", "bbb"], "'bb' is not one of its values; did you mean bbb? (there are: aa, bbb)"),
        (12, Literal[11, 16], "expected one of 11, 16, got 12"),
        (True, Literal[1, 2], "expected one of 1, 2, got true"),
        ("x" * 10000, int, "xxx...xxx"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_what_would(value, annotation, message):
    with pytest.raises(UserError) as caught:
        convert(value, annotation)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_list_is_copied_so_that_a_default_cannot_change():
    default = [1.0, 2.0]
    assert convert(default, list[float]) is not default


def test_types_are_described_in_a_users_words():
    assert describe_type(int | list[int] | None) == "a whole number or a list of (a whole number) or null"
    assert describe_type(Literal["a", "b"] | bool) == "one of a, b or true or false"


def test_where_defined_is_file_and_line_or_the_module():
    assert where_defined(Base) == f"{__file__}:{inspect.getsourcelines(Base)[1]}"
    assert where_defined(type("Made", (), {})) == f"module {__name__}"
    assert where_defined(int) == "module builtins"


def test_a_subclass_that_overrides_the_call_alone_loses_the_method_for_batches():
    class Part:
        def __call__(self): ...

        def call_batch(self): ...

    class Renamed(Part): ...

    class Changed(Part):
        def __call__(self): ...

    class Both(Changed):
        def call_batch(self): ...

    found = [batch_method(part, "call_batch") is not None for part in (Part(), Renamed(), Changed(), Both(), len)]
    assert found == [True, True, False, True, False]
