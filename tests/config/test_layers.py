"""Values of one layer: the type of text from the command line follows from its key."""

from typing import Literal

import pytest

from detlite.config.layers import CommandLineText, Layer, read_section, read_value
from detlite.config.yaml import parse_yaml
from detlite.errors import UserError


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("5", str, "5"),
        ("5", int | str, 5),
        ("five", int | str, "five"),
        ("null", str | None, None),
        ("none", str | None, "none"),
        ("@x", str | None, "@x"),
        ("[", str | None, "["),
        ("", str | None, ""),
        ("1", Literal["1", "2"], "1"),
        ("[1, x]", list[int | str], [1, "x"]),
    ],
)
def test_text_is_what_its_key_takes_and_a_string_only_if_nothing_else_fits(text, annotation, value):
    result = read_value(CommandLineText(text), annotation, "here")
    assert result == value
    assert type(result) is type(value)


def test_text_in_a_file_keeps_the_type_that_it_has_there():
    with pytest.raises(UserError, match="^here: expected a whole number, got '5'"):
        read_value("5", int, "here")


def test_no_text_is_no_null():
    assert read_section(CommandLineText(" "), "here") == ""
    assert read_section(CommandLineText("null"), "here") is None
    assert read_section("null", "here") == "null"  # not from the command line


def test_a_location_has_a_line_in_a_file_and_none_elsewhere(tmp_path):
    section = parse_yaml("A: 1\nB: 2\n", "here")
    assert Layer("own.yaml", section, tmp_path / "own.yaml").locate(section, "B") == "own.yaml:2"
    assert Layer("command line", section).locate(section, "B") == "command line"
    assert Layer("own.yaml", {"B": 2}, tmp_path / "own.yaml").locate({"B": 2}, "B") == "own.yaml"
