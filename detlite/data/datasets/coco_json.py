"""Reading of COCO's JSON files, with a message that names file, entry and value for whatever is wrong in one.

Rows are one of the file's lists of objects: annotations, images or categories. Functions that take ``report`` give it
the faulty rows, and give back the others; see :mod:`detlite.data.faults`.
"""

import json
import os
from collections import Counter
from reprlib import repr as shortened

import numpy as np

from detlite.errors import UserError, nearest_path, suggest
from detlite.files import open_file

PLURALS = {"image": "images", "annotation": "annotations", "category": "categories"}


def read_json(path):
    """The file's content, a dict in which images, annotations and categories are lists of dicts."""
    try:
        with open_file(path) as file:
            text = file.read().decode("utf-8-sig")
        content = json.loads(text, object_pairs_hook=_without_segmentation)
    except OSError as error:
        near = "" if os.path.exists(path) else nearest_path(path)
        raise UserError(f"{path}: {error.strerror} (CocoDataset's ANNOTATIONS){near}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file: {error}") from error
    for key in ("images", "annotations", "categories"):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(
                f"{path}: not COCO's format, an object with the lists images, annotations and categories of objects; "
                f"{key} is missing or something else"
            )
    return content


def _without_segmentation(pairs):
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} is twice in one object, {shortened(row)}")
    row.pop("segmentation", None)  # not used, and most of COCO's files: as Python objects, gigabytes
    return row


def whole_number(minimum=-(2**63)):
    """What :func:`good_rows` asks of a value that is to be a whole number."""
    least = f" of at least {minimum}" if minimum >= 0 else ""
    return lambda value: type(value) is int and minimum <= value < 2**63, f"a whole number{least}"


STRING = (lambda value: isinstance(value, str)), "a string"
FILE_NAME = (
    (lambda value: isinstance(value, str) and 0 < len(value) <= 4096 and "\0" not in value),
    "a path, of at most 4096 characters",
)
NUMBER = (lambda value: _is_number(value)), "a number"
FOUR_NUMBERS = (
    lambda value: isinstance(value, list) and len(value) == 4 and not any(map(_is_no_number, value)),
    "a list of four numbers (x, y, width, height)",
)


def _is_no_number(value):
    return isinstance(value, bool) or not _is_number(value)


def _is_number(value):
    """Whether it can be a float64; null becomes NaN."""
    if value is None or isinstance(value, float):
        return True
    try:
        return isinstance(value, (int, str)) and isinstance(float(value), float)
    except (ValueError, OverflowError):
        return False


def good_rows(path, what, rows, expected, report):
    """The rows whose values are what they must be.

    Args:
        path: the file.
        what: what a row is: image, annotation or category.
        rows: list of dicts.
        expected: {key: (whether a value is right, what would be)}.
        report: is given the others.
    """
    for key, (is_right, words) in expected.items():
        rows = _report_values(
            path,
            what,
            rows,
            key,
            is_right,
            f"{PLURALS[what]} with a wrong {key}",
            f"{key} must be {words}, got ",
            report,
        )
    return rows


def rows_with_known(path, rows, key, known, report):
    """The annotations whose ``key``, such as category_id, is a known one.

    Args:
        path: the file.
        rows: annotations whose ``key`` is a whole number.
        key: category_id or image_id.
        known: the ids that there are.
        report: is given the others.
    """
    what = key.removesuffix("_id")
    choices = suggest("", known) if len(known) <= 100 else ""
    kind = f"annotations of unknown {PLURALS[what]}"
    return _report_values(
        path, "annotation", rows, key, known.__contains__, kind, f"there is no {what} ", report, choices
    )


def _report_values(path, what, rows, key, is_right, kind, complaint, report, ending=""):
    """The rows whose value is right; the others are reported as ``complaint`` says, followed by the value."""
    wrong = [number for number, row in enumerate(rows) if not is_right(row.get(key))]
    if not wrong:
        return rows

    def describe(number):
        return f"{path}: {_entry(what, number, rows[number])}: {complaint}{shortened(rows[number].get(key))}{ending}"

    report(kind, wrong, describe, f"{len(rows)} {PLURALS[what]}")
    left_out = set(wrong)
    return [row for number, row in enumerate(rows) if number not in left_out]


def rows_with_own_id(path, what, rows, report):
    """The rows without those whose id an earlier row has."""
    counts = Counter(row["id"] for row in rows)
    if len(counts) == len(rows):
        return rows
    report(
        f"duplicate {what} ids",
        [value for value, count in counts.items() if count > 1],
        lambda value: f"{path}: {what} id {value} is there {counts[value]} times",
        f"{len(counts)} ids",
    )
    return list({row["id"]: row for row in reversed(rows)}.values())[::-1]


def column(rows, key, dtype):
    """What rows have as ``key``, an array."""
    return np.array([row.get(key) for row in rows], dtype)


def _entry(what, number, row):
    return f"{what} {shortened(row['id'])}" if "id" in row else f"{what} number {number + 1} (without id)"
