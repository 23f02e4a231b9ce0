"""One layer of a config: the values that one file, or the command line, sets."""

import contextlib
from pathlib import Path
from typing import NamedTuple

from detlite.config.yaml import parse_yaml
from detlite.errors import UserError, prefix_errors
from detlite.signature import convert


class CommandLineText(str):
    """Text from the command line, whose type follows from its key."""


class Layer(NamedTuple):
    """Values from one source."""

    source: str  # a file's path, "command line", or another name for messages
    values: dict  # nested mapping of the keys that the layer sets
    file: Path | None = None  # the absolute path if the source is a file
    is_record: bool = False  # whether detlite wrote the values, so that renamed keys are translated

    def locate(self, section, key):
        """Return where the layer sets a section's key: "file:line" if it is a file."""
        line = getattr(section, "lines", {}).get(key)
        return f"{self.source}:{line}" if line and self.file else self.source


def read_section(value, where):
    """Return a layer's section or list. Text from the command line is parsed as YAML, but blank text is ""."""
    if not isinstance(value, CommandLineText):
        return value
    return parse_yaml(str(value), where) if value.strip() else ""


def read_value(value, annotation, where):
    """Convert a layer's value to its key's annotation, or raise a UserError.

    Text from the command line is parsed as YAML. If the result does not fit, the text itself is tried as a string.
    """
    if not isinstance(value, CommandLineText):
        with prefix_errors(f"{where}: "):
            return convert(value, annotation)
    if annotation is str:
        return str(value)
    try:
        section = read_section(value, where)
        with prefix_errors(f"{where}: "):
            return convert(section, annotation)
    except UserError:
        with contextlib.suppress(UserError):
            return convert(str(value), annotation)
        raise
