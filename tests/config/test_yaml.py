"""The values of YAML texts, refused texts, and values that are written and read back."""

import math

import pytest

from detlite.config.yaml import format_yaml, parse_yaml
from detlite.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("-2.5e+1", -25.0),
        (".5", 0.5),
        ("5.", 5.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("0", 0),
        ("-12", -12),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_numbers_and_words_are_what_yaml_1_2_says(text, value):
    parsed = parse_yaml(text, "here")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    "text", ["no", "yes", "on", "off", "y", "n", "0x1F", "1_000", "2001-01-01", "12:30:45", "1e", "e5", "=", "ü", "+-1"]
)
def test_words_that_yaml_1_1_takes_for_something_else_stay_text(text):
    assert parse_yaml(text, "here") == text


def test_010_is_ten_and_not_eight():
    assert parse_yaml("010", "here") == 10


def test_json_is_yaml():
    assert parse_yaml('{"A": [1, 2.5e-1, true, null, "x"]}', "here") == {"A": [1, 0.25, True, None, "x"]}


def test_byte_order_mark_and_windows_line_ends_are_no_part_of_the_text():
    assert parse_yaml("\ufeffA: x\r\nB:\r\n  C: 1\r\n", "here") == {"A": "x", "B": {"C": 1}}


def test_sections_remember_the_line_of_each_key():
    section = parse_yaml("A: 1\n\nB:\n  C: 2\n", "here")
    assert section.lines == {"A": 1, "B": 3}
    assert section["B"].lines == {"C": 4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A: 1\nB: 2\nA: 3", "here:3: A is set twice in this section, first in line 1"),
        ("A:\n  B: 1\n  B: 1", "here:3: B is set twice in this section, first in line 2"),
        ("L: [{A: 1, A: 2}]", "here: A is set twice in this section, first in line 1"),
        ("A:\n\tB: 1", "here:2: not valid YAML: while scanning for the next token: found character '\\t' that"),
        ("A:\n\tB: 1", "; indent with spaces"),
        ("A: [1, 2", "here: not valid YAML: while parsing a flow sequence: expected ',' or ']'"),
        ("A: 1\n---\nA: 2", "here:2: not valid YAML: expected a single document in the stream"),
        ("A: &a [1, 2]\nB: [*a, *a]", "here:2: a config has no aliases (*name)"),
        ("A: 1\nB: \x07", "here:2: not valid YAML: the character '\\x07'"),
        ("A: \0", "here: not valid YAML: the character '\\x00'"),
        ("A: " + "[" * 5000, "here: nested too deeply"),
        ("A: !!python/object/apply:os.getcwd []", "python/object/apply:os.getcwd: a config cannot hold this type"),
        ("A: !!binary aGk=", "binary: a config cannot hold this type"),
        ("A: !!timestamp 2001-01-01", "timestamp: a config cannot hold this type"),
        ("A: !!set {a, b}", "set: a config cannot hold this type"),
        ("A: !own 1", "here: !own: a config cannot hold this type"),
        ("A: !!int abc", "here: 'abc' cannot be read as int"),
        ("A: !!bool maybe", "here: 'maybe' cannot be read as bool"),
        ("A: !!float abc", "here: 'abc' cannot be read as float"),
        ('A: !!int ""', "here: '' cannot be read as int"),
        ('A: !!float "_"', "here: '_' cannot be read as float"),
        ("A: " + "1" * 5000, "cannot be read as int"),
        ("A: !!map x", "here: 'x' is not a section"),
        ("A: !!seq x", "here: expected a sequence node, but found scalar"),
        ("1.5: x", "here: 1.5 is not a key"),
        ("~: x", "here: null is not a key"),
        ("true: x", "here: true is not a key"),
        ("[a]: x", "here: ['a'] is not a key"),
        ("{a: b}: x", "here: {'a': 'b'} is not a key"),
        ("A: 1\nB:\n  <<: {x: 1}", "here:3: a config has no merge keys (<<); name a file to start from in _BASE_"),
    ],
)
def test_what_is_no_config_is_refused_with_its_line(text, message):
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "here")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_text_of_many_megabytes_is_refused_before_it_is_parsed():
    with pytest.raises(UserError, match="here: 4,194,304 characters, expected at most 1,048,576"):
        parse_yaml("- a\n" * 2**20, "here")


ODD = ["no", "Yes", "on", "y", "1e3", "1E-3", "1.", ".5", "null", "~", "", " ", " x ", "010", "0x1F", "0o17", "1_000"]
ODD += [
    "ü",
    "日本",
    "😀",
    "2001-01-01",
    "12:30",
    "<<",
    "=",
    "true",
    "-",
    "- a",
    "a: b",
    "a #b",
    "#",
    "[",
    "{}",
    "*a",
    "&a",
]
ODD += [
    "!x",
    "%x",
    "@x",
    "`x",
    "'",
    '"',
    "a'b\"c",
    "a\nb",
    "\n",
    "a\n\nb\n",
    "\t",
    "a\tb",
    "\\n",
    "\x00",
    "\x85",
    "\u2028",
]
ODD += [
    "\ufeff",
    "\ud800",
    "---",
    "...",
    "? a",
    "| a",
    "> a",
    ".inf",
    ".nan",
    "-.inf",
    "x" * 300,
    "word " * 60,
    "é " * 70,
]


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_any_text_comes_back_as_it_was_written(text):
    value = {"A": text, "L": [text, {"B": text}]}
    assert parse_yaml(format_yaml(value), "here") == value


@pytest.mark.parametrize(
    "number", [0, -1, 10**20, 0.0, 1.0, -0.5, 1 / 3, 1e-5, 1e16, 1e22, 5e-324, 1.7976931348623157e308, math.inf]
)
def test_any_number_comes_back_with_its_type(number):
    parsed = parse_yaml(format_yaml([number, True, None]), "here")
    assert parsed == [number, True, None]
    assert type(parsed[0]) is type(number)


def test_keys_stay_in_order_and_lists_that_are_one_object_are_written_twice():
    shared = [1, 2]
    text = format_yaml({"Z": shared, "A": shared})
    assert list(parse_yaml(text, "here")) == ["Z", "A"]
    assert "&" not in text
