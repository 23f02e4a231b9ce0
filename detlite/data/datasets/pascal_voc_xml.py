"""Reading of Pascal VOC's XML files from any tool, with a message that names file and object for each fault.

Letters: M objects of one image. Numbers may be fractional, surrounded by blanks, empty or absent. A file may be in any
encoding that Python knows. Entities are refused, so that a file can neither grow in memory nor include other files.
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


class AnnotationFile(NamedTuple):
    """The content of one file.

    Attributes:
        path: the file.
        size: (height, width); None if the file has no valid size.
        has_size: whether the file has a ``<size>``, valid or not.
        names: M class names.
        boxes: (M, 4) float64, the file's xmin, ymin, xmax and ymax; NaN for a text that is no number.
        difficult: (M,) bool.
        written: M texts, the boxes in the file's words, for messages.
        empty: number of ``<object>`` that have neither a name nor a box; the M objects are without them.
    """

    path: str
    size: tuple[int, int] | None
    has_size: bool
    names: list[str]
    boxes: np.ndarray
    difficult: np.ndarray
    written: list[str]
    empty: int


def read_annotation(path):
    """Read one XML file as an :class:`AnnotationFile`.

    Raises:
        UserError: the file cannot be read, is not XML, declares entities, or has an object with a box but no name.
    """
    root = _parse(path)
    if root.tag != "annotation":
        raise UserError(f"{path}: not a Pascal VOC annotation: the file begins with <{root.tag}>, not <annotation>")
    size = root.find("size")
    height, width = _number(_text(size, "height")), _number(_text(size, "width"))
    is_valid = 1 <= height < 2**31 and 1 <= width < 2**31

    names, boxes, difficult, written, empty = [], [], [], [], 0
    for number, element in enumerate(root.findall("object"), start=1):
        name, box = _text(element, "name"), element.find("bndbox")
        if not name and box is None:
            empty += 1
            continue
        if not name:
            raise UserError(f"{path}: object {number} has a box but no name")
        corners = {key: _text(box, key) for key in CORNERS}
        names.append(name)
        boxes.append([_number(corner) for corner in corners.values()])
        difficult.append(_is_true(_text(element, "difficult")))
        written.append(", ".join(f"{key} {corner or 'missing'}" for key, corner in corners.items()))
    return AnnotationFile(
        path=path,
        size=(int(height), int(width)) if is_valid else None,
        has_size=size is not None,
        names=names,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        difficult=np.array(difficult, bool),
        written=written,
        empty=empty,
    )


def _parse(path):
    """Return the root element of an XML file."""
    try:
        with open_file(path) as file:
            data = file.read().lstrip()  # a blank line above the declaration is common, and forbidden
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None

    # The declared encoding. A file that declares UTF-16 but is read byte by byte is UTF-8.
    declared = re.match(rb"<\?xml[^>]*?\bencoding\s*=\s*[\"']([\w.:-]+)", data)
    encoding = declared[1].decode().lower() if declared else None
    if encoding and encoding.startswith("utf-16"):
        encoding = "utf-8"

    def refuse(name, *_):
        raise UserError(f"{path}: has the XML entity {name!r}, but entities are not read. No annotation needs one")

    builder = TreeBuilder()
    try:
        if encoding:  # expat itself knows no Chinese, Japanese or Korean encoding
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
    """Return the text of a child with single blanks; empty if the element or the child is missing."""
    if element is None:
        return ""
    return " ".join((element.findtext(tag) or "").split())


def _number(text):
    """Return the number, NaN for a text that is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _is_true(text):
    return text.lower() in ("true", "yes") or _number(text) > 0
