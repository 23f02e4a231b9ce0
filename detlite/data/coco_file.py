"""Reading of COCO's JSON files, with a message that names file, entry and value for whatever is wrong in one.

Rows are one of the file's lists of objects: B annotations, or as many images or categories. Their values come out as
arrays in the order of the file.
"""

import json
from reprlib import repr as shortened

import numpy as np

from detlite.errors import UserError, suggest


def read_json(path):
    """The file's content, a dict in which images, annotations and categories are lists of dicts."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror} (CocoDataset's ANNOTATIONS)") from error
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


def read_categories(path, rows):
    """The categories' ids, sorted, and their names in the same order: two lists."""
    if not rows:
        raise UserError(f"{path}: categories is empty")
    ids = read_ids(path, "category", rows)
    names = read_strings(path, "category", rows, "name")
    order = np.argsort(ids)
    return ids[order].tolist(), [names[i] for i in order]


def read_ids(path, what, rows):
    """The ids of rows, int64, each there once."""
    ids, counts = np.unique(read_integers(path, what, rows, "id"), return_counts=True)
    if len(ids) < len(rows):
        raise UserError(f"{path}: {what} id {ids[counts > 1][0]} is there {counts[counts > 1][0]} times")
    return np.array([row["id"] for row in rows], np.int64)


def read_integers(path, what, rows, key, minimum=-(2**63)):
    """What rows have as ``key``, int64."""
    for number, row in enumerate(rows, start=1):
        value = row.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value < 2**63:
            least = f" of at least {minimum}" if minimum >= 0 else ""
            raise UserError(
                f"{path}: {_entry(what, number, row)}: {key} must be a whole number{least}, got {shortened(value)}"
            )
    return np.array([row[key] for row in rows], np.int64)


def read_strings(path, what, rows, key):
    """What rows have as ``key``, a list of str."""
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get(key), str):
            raise UserError(
                f"{path}: {_entry(what, number, row)}: {key} must be a string, got {shortened(row.get(key))}"
            )
    return [row[key] for row in rows]


def read_numbers(path, rows, key, shape):
    """What annotations have as ``key``, (B, *shape) float64; null, or for shape () nothing at all, becomes NaN."""
    values = _float_array([row.get(key) for row in rows] or np.zeros((0, *shape)))
    if values is None or values.shape != (len(rows), *shape):
        for number, row in enumerate(rows, start=1):
            value = _float_array(row.get(key))
            if value is None or value.shape != shape:
                expected = "a list of four numbers (x, y, width, height)" if shape else "a number"
                got = shortened(row.get(key))
                raise UserError(f"{path}: {_entry('annotation', number, row)}: {key} must be {expected}, got {got}")
    return values


def read_references(path, rows, key, ids):
    """Where among ``ids`` the id is that each annotation has as ``key``, (B,) int64."""
    place = {value: i for i, value in enumerate(ids)}
    values = read_integers(path, "annotation", rows, key).tolist()
    for number, (value, row) in enumerate(zip(values, rows, strict=True), start=1):
        if value not in place:
            choices = suggest("", ids) if len(ids) <= 100 else ""
            raise UserError(
                f"{path}: {_entry('annotation', number, row)}: there is no {key.removesuffix('_id')} {value}{choices}"
            )
    return np.array([place[value] for value in values], np.int64)


def _entry(what, number, row):
    return f"{what} {shortened(row['id'])}" if "id" in row else f"{what} number {number} (without id)"


def _float_array(values):
    try:
        return np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError):  # no numbers, lists of different lengths, an int beyond floats
        return None
