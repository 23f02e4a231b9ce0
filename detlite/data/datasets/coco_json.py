"""Reading of COCO's JSON files, with messages that name file, entry and value.

A row is a dict in one of the file's lists: an annotation, an image or a category.
"""

import functools
from collections import Counter
from reprlib import repr as shortened

import numpy as np

from detlite import files
from detlite.data.faults import stop_at_fault
from detlite.errors import UserError, suggest

PLURALS = {"image": "images", "annotation": "annotations", "category": "categories"}


def _is_number(value):
    """Check whether numpy can convert a value of JSON to float64. None becomes NaN."""
    try:
        float(0 if value is None else value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _is_path(value):
    return isinstance(value, str) and 0 < len(value) <= 4096 and "\0" not in value


def _is_box(value):
    if not isinstance(value, list) or len(value) != 4 or bool in map(type, value):
        return False
    return all(map(_is_number, value))


def _is_whole(value, minimum=-(2**63)):
    return type(value) is int and minimum <= value < 2**63  # isinstance would accept a bool


WHOLE_NUMBER = (_is_whole, "a whole number")
SIDE = (functools.partial(_is_whole, minimum=1), "a whole number of at least 1")
FILE_NAME = (_is_path, "a path of at most 4096 characters")
RULES = {  # {kind of row: {key: (function that tests a value, valid values in words)}}
    "category": {"id": WHOLE_NUMBER, "name": (lambda value: isinstance(value, str), "a string")},
    "image": {"id": WHOLE_NUMBER, "file_name": FILE_NAME, "height": SIDE, "width": SIDE},
    "annotation": {
        "image_id": WHOLE_NUMBER,
        "category_id": WHOLE_NUMBER,
        "bbox": (_is_box, "a list of four numbers (x, y, width, height)"),
        "iscrowd": (_is_number, "a number"),
        "area": (_is_number, "a number"),
    },
}


def read_json(path):
    """Read a dict in which images, annotations and categories are lists of dicts."""
    content = files.read_json(path, " (CocoDataset's ANNOTATIONS)", _without_segmentation)

    # Only the outer structure is checked here; read_rows checks the values.
    for key in PLURALS.values():
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            expected = "an object with the lists images, annotations and categories"
            problem = f"not COCO's format: {key} is missing or not a list of objects"
            raise UserError(f"{path}: {problem}. Expected {expected}")
    return content


def _without_segmentation(pairs):
    """Build a dict from the (key, value) pairs of one JSON object, without "segmentation"."""
    row = dict(pairs)
    if len(row) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        repeated = max(counts, key=counts.get)
        raise ValueError(f"the key {repeated!r} occurs twice in one object, {shortened(row)}")
    row.pop("segmentation", None)  # not used; in COCO's files it would take gigabytes
    return row


def read_rows(path, report):
    """Read a file's valid rows, and report all others.

    Returns:
        images, annotations and categories, lists of dicts. Annotations of a reported image are still returned.
    """
    content = read_json(path)
    for key in ("categories", "images"):
        if not content[key]:
            raise UserError(f"{path}: {key} is empty")

    # Images and categories are checked first, because annotations refer to them.
    checks = _RowChecks(path, report)
    categories = checks.valid("category", content["categories"])
    categories = checks.unique("category", "id", categories)
    checks.unique("category", "name", categories)  # only reported: categories of the same name stay
    images = checks.valid("image", content["images"])
    images = checks.unique("image", "id", images)

    # Ids of reported images count as known, so that their annotations are not reported again.
    image_ids = column(content["images"], "id")
    image_ids = set(filter(_is_whole, image_ids))
    annotations = checks.valid("annotation", content["annotations"])
    annotations = checks.known("image", image_ids, annotations)
    annotations = checks.known("category", set(column(categories, "id")), annotations)

    # Training does not use the ids of annotations, so a training skips this check. Faulty ids are warnings.
    if report is not stop_at_fault:
        checks = _RowChecks(path, functools.partial(report, is_error=False))
        with_id = [row for row in annotations if "id" in row]
        with_id = checks.valid("annotation", with_id, {"id": WHOLE_NUMBER})
        checks.unique("annotation", "id", with_id)
    return images, annotations, categories


class _RowChecks:
    """Checks of rows. Each method reports the faulty rows and returns the others."""

    def __init__(self, path, report):
        self.path = path
        self.report = report

    def valid(self, what, rows, rules=None):
        """Check the values of rows of the kind ``what``. The rules are ``rules``, by default RULES[what]."""
        rules = rules or RULES[what]
        for key, (accepts, expected) in rules.items():
            kind = f"{PLURALS[what]} with a wrong {key}"
            words = f"{key} must be {expected}, got "
            rows = self._check_values(what, rows, key, accepts, kind, words)
        return rows

    def known(self, what, ids, annotations):
        """Check that the annotations' images or categories exist."""
        choices = suggest("", ids) if len(ids) <= 100 else ""  # a list of all ids, unless it is too long
        kind = f"annotations of unknown {PLURALS[what]}"
        words = f"there is no {what} "
        return self._check_values("annotation", annotations, f"{what}_id", ids.__contains__, kind, words, choices)

    def _check_values(self, what, rows, key, accepts, kind, words, ending=""):
        """Check one value of each row. A message is ``words``, the value and ``ending``."""
        wrong = [index for index, row in enumerate(rows) if not accepts(row.get(key))]
        if not wrong:
            return rows

        def describe(index):
            row = rows[index]
            entry = shortened(row["id"]) if "id" in row else f"number {index + 1} (without id)"
            return f"{self.path}: {what} {entry}: {words}{shortened(row.get(key))}{ending}"

        self.report(kind, wrong, describe, f"{len(rows)} {PLURALS[what]}")
        left_out = set(wrong)
        return [row for index, row in enumerate(rows) if index not in left_out]

    def unique(self, what, key, rows):
        """Check that no two rows have the same value of a key. The first row of a repeated value is valid."""
        counts = Counter(column(rows, key))
        if len(counts) == len(rows):
            return rows
        repeated = [value for value, count in counts.items() if count > 1]

        def describe(value):
            text = f"{self.path}: {what} {key} {value!r} occurs {counts[value]} times"
            if key == "id":
                return text
            ids = [str(row["id"]) for row in rows if row[key] == value]
            return f"{text}: {PLURALS[what]} {' and '.join(ids)}"

        self.report(f"duplicate {what} {key}s", repeated, describe, f"{len(counts)} {key}s")

        # Going backwards, the first row of each value replaces the later ones.
        first = {row[key]: row for row in reversed(rows)}
        return list(first.values())[::-1]


def column(rows, key, dtype=None):
    """Return the values of one key, as a list or, with a dtype, as an array."""
    values = [row.get(key) for row in rows]
    return values if dtype is None else np.array(values, dtype)
