"""Reading of Pascal VOC's XML files, as their writers left them, with a message that names file and object.

M objects of one image. Numbers may be fractional, wrapped in blanks, empty or absent; a file may be in any encoding
that Python knows. Entities are refused, so that a file can neither grow in memory nor reach for other files.
"""

import math
import re
from typing import NamedTuple
from xml.etree.ElementTree import TreeBuilder
from xml.parsers import expat

import numpy as np

from detlite.errors import UserError
from detlite.files import open_file

CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Annotation(NamedTuple):
    """What one file says.

    Attributes:
        size: (height, width); (0, 0) where the file does not say, or nothing that can be.
        says_size: whether it says anything.
        names: M class names.
        boxes: (M, 4) float64, xmin, ymin, xmax, ymax as they stand in the file; NaN for what is no number.
        difficult: (M,) bool.
        written: for each object, its box in the file's own words, for messages.
        empty: how many ``<object>`` hold neither a name nor a box; they are none of the M.
    """

    size: tuple[int, int]
    says_size: bool
    names: list[str]
    boxes: np.ndarray
    difficult: np.ndarray
    written: list[str]
    empty: int


def read_annotation(path):
    """Read one XML file.

    Args:
        path: the file.

    Returns:
        :class:`Annotation`.

    Raises:
        UserError: the file cannot be read, is not XML, declares entities, or has an object with a box but no name.
    """
    root = _parse(path)
    if root.tag != "annotation":
        raise UserError(f"{path}: not a Pascal VOC annotation: the file begins with <{root.tag}>, not <annotation>")
    size = root.find("size")
    sides = [_number(_text(size, key)) for key in ("height", "width")]
    names, boxes, difficult, written, empty = [], [], [], [], 0
    for number, element in enumerate(root.findall("object"), start=1):
        name, box = _text(element, "name"), element.find("bndbox")
        if not name and box is None:
            empty += 1
            continue
        if not name:
            raise UserError(f"{path}: object {number} has a box but no name")
        corners = [_text(box, key) for key in CORNERS]
        names.append(name)
        boxes.append([_number(corner) for corner in corners])
        difficult.append(_is_true(_text(element, "difficult")))
        written.append(", ".join(f"{key} {corner or 'missing'}" for key, corner in zip(CORNERS, corners, strict=True)))
    return Annotation(
        size=tuple(map(int, sides)) if all(1 <= side < 2**31 for side in sides) else (0, 0),
        says_size=size is not None,
        names=names,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        difficult=np.array(difficult, bool),
        written=written,
        empty=empty,
    )


def _parse(path):
    """The root element of an XML file."""
    try:
        with open_file(path) as file:
            data = file.read().lstrip()  # a blank line above the declaration is common, and forbidden
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None

    def refuse(name, *_):
        raise UserError(f"{path}: has the XML entity {name!r}, which no annotation needs; entities are not read")

    declared = re.match(rb"<\?xml[^>]*?\bencoding\s*=\s*[\"']([\w.:-]+)", data)
    encoding = declared[1].decode().lower() if declared else None
    if encoding and encoding.startswith("utf-16"):
        encoding = "utf-8"  # it cannot be: its declaration was just read byte by byte
    builder = TreeBuilder()
    try:
        if encoding:  # expat itself knows no Chinese, Japanese or Korean ones
            data = data.decode(encoding).encode("utf-8")
        parser = expat.ParserCreate("utf-8" if encoding else None)
        parser.buffer_text = True
        parser.StartElementHandler = builder.start
        parser.EndElementHandler = builder.end
        parser.CharacterDataHandler = builder.data
        parser.EntityDeclHandler = parser.SkippedEntityHandler = refuse
        parser.Parse(data, True)
    except (expat.ExpatError, UnicodeError, LookupError) as error:
        raise UserError(f"{path}: not an XML file that can be read: {error}") from None
    return builder.close()


def _text(element, tag):
    """The text of a child, without blanks around it; empty where there is none."""
    text = element.findtext(tag) if element is not None else None
    return " ".join((text or "").split())


def _number(text):
    try:
        return float(text)
    except ValueError:
        return math.nan


def _is_true(text):
    return text.lower() in ("true", "yes") or _number(text) > 0
