"""One layer of a config: what one file, or the command line, sets, and how its values are read."""

from detlite.config.yaml import parse_yaml
from detlite.errors import UserError
from detlite.signature import convert


class CommandLineText(str):
    """A value from the command line: text whose type only the key that it is for can tell."""


class Layer:
    """Values from one place.

    Args:
        source: a file's path, "command line", or another name for messages.
        values: nested mapping of what it sets.
        file: its absolute path, if it is a file.
    """

    def __init__(self, source, values, file=None):
        self.source = source
        self.values = values
        self.file = file

    def locate(self, section, key):
        """Where the layer sets a section's key: "file:line" if it is a file."""
        line = getattr(section, "lines", {}).get(key) if self.file else None
        return f"{self.source}:{line}" if line else self.source


def read_section(value, where):
    """What a layer has for a section or a list: YAML, if it is text from the command line, else what it is.

    Nothing stays an empty text, where YAML would say null.
    """
    if not isinstance(value, CommandLineText):
        return value
    return parse_yaml(str(value), where) if value.strip() else ""


def read_value(value, annotation, where):
    """What a layer has for a key, as the key's annotation wants it; see :func:`detlite.signature.convert`.

    Text from the command line that is no value of another type may still be a string: ``0`` for OUTPUT_DIR.
    """
    readings, problem = [value], None
    if isinstance(value, CommandLineText):
        readings = [str(value)]
        try:
            if annotation is not str:
                readings.insert(0, read_section(value, where))
        except UserError as error:
            problem = error
    for reading in readings:
        try:
            return convert(reading, annotation)
        except UserError as error:
            problem = problem or UserError(f"{where}: {error}")
    raise problem from None
