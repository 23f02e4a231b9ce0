"""Read Pascal VOC's XML files; error messages name the file and the object.

Numbers may be fractions, have blanks around them, be empty or missing. A file may be in any encoding that Python knows.
Entities are refused, so that a file can neither grow in memory nor include other files.
"""

import math
import re
from typing import NamedTuple
from xml.etree.ElementTree import TreeBuilder
from xml.parsers import expat

from detlite.errors import UserError
from detlite.files import read_bytes

CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VOCObject(NamedTuple):
    """One object of a file."""

    path: str
    number: int  # in the file, from 1
    name: str
    box: tuple[float, ...]  # the file's xmin, ymin, xmax and ymax; NaN where the text is not a number
    difficult: bool
    written: str  # the box as the file's text, for messages

    def describe(self):
        """Return text that names file, object and box, for messages."""
        return f"{self.path}: object {self.number}, {self.name!r}, has the box {self.written}"


class AnnotationFile(NamedTuple):
    """The content of one file."""

    size: tuple[int, int] | None  # (height, width); None if the file has no valid size
    has_size: bool  # the file has a <size>, valid or not
    objects: list[VOCObject]
    empty: int  # number of <object> elements without name and box; ``objects`` leaves them out


def read_annotation(path):
    """Read one XML file as an :class:`AnnotationFile`. Any fault of the file is a UserError."""
    root = _parse(path)
    if root.tag != "annotation":
        raise UserError(f"{path}: not a Pascal VOC annotation: the file begins with <{root.tag}>, not <annotation>")
    size = root.find("size")
    height, width = _number(_text(size, "height")), _number(_text(size, "width"))
    is_valid = 1 <= height < 2**31 and 1 <= width < 2**31  # false for NaN
    valid_size = (int(height), int(width)) if is_valid else None
    # Some tools write <object> elements without content. These are only counted.
    objects, empty = [], 0
    for number, element in enumerate(root.findall("object"), start=1):
        name, box = _text(element, "name"), element.find("bndbox")
        if not name and box is None:
            empty += 1
            continue
        if not name:
            raise UserError(f"{path}: object {number} has a box but no name")
        texts = {corner: _text(box, corner) for corner in CORNERS}
        written = ", ".join(f"{corner} {text or 'missing'}" for corner, text in texts.items())
        numbers = tuple(map(_number, texts.values()))
        difficult = _text(element, "difficult").lower()
        is_difficult = difficult in ("true", "yes") or _number(difficult) > 0
        objects.append(VOCObject(path, number, name, numbers, is_difficult, written))
    return AnnotationFile(valid_size, size is not None, objects, empty)


def _parse(path):
    """Return the root element of an XML file."""
    data = read_bytes(path).lstrip()  # XML forbids blanks before the declaration, but they are common

    # Find the declared encoding. The pattern has one byte per letter: where it finds "utf-16", the file is not UTF-16.
    declared = re.match(rb"<\?xml[^>]*?\bencoding\s*=\s*[\"']([\w.:-]+)", data)
    encoding = declared[1].decode().lower() if declared else None
    if encoding and encoding.startswith("utf-16"):
        encoding = "utf-8"

    def refuse(name, *_):
        raise UserError(f"{path}: has the XML entity {name!r}; entities are not supported, and not needed")

    builder = TreeBuilder()
    try:
        if encoding:  # Python decodes Chinese, Japanese and Korean encodings; expat cannot
            data = data.decode(encoding).encode("utf-8")
        parser = expat.ParserCreate("utf-8" if encoding else None)
        parser.buffer_text = True
        parser.StartElementHandler = builder.start
        parser.EndElementHandler = builder.end
        parser.CharacterDataHandler = builder.data
        parser.EntityDeclHandler = parser.SkippedEntityHandler = refuse
        parser.Parse(data, True)
    except (expat.ExpatError, UnicodeError, LookupError) as error:
        raise UserError(f"{path}: not an XML file, or a damaged one: {error}") from None
    return builder.close()


def _text(element, tag):
    """Return a child's text, stripped and with single blanks between words; "" if there is none."""
    text = None if element is None else element.findtext(tag)
    return " ".join((text or "").split())


def _number(text):
    """Convert a text to a float, or to NaN if it is not a number."""
    try:
        return float(text)
    except ValueError:
        return math.nan
