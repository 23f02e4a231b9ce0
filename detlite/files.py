"""Files of users: opened safely; JSON, JSON lines and CSV read and written."""

import csv
import errno
import json
import math
import os
import stat

from detlite.errors import UserError


def open_file(path):
    """Open a regular file to read its bytes.

    Raises:
        OSError: the file cannot be opened, or it is a folder, a device or a pipe. A pipe would block the reader.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return open(path, "rb")


def read_json(path):
    """Return the content of a JSON file.

    Raises:
        UserError: the file cannot be read, or is not JSON.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file: {error}") from None


def write_json(value, path):
    """Write a value as JSON. NaN and infinity are refused."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, allow_nan=False)


def write_table(rows, path):
    """Write a list of dicts that share their keys to ``path``.json and ``path``.csv."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(rows, f"{path}.json")
    write_csv(rows, f"{path}.csv", list(rows[0]) if rows else [])


def write_csv(rows, path, columns):
    """Write a list of dicts as a CSV file. Its first row names the columns, which are the dicts' keys."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def without_nan(results):
    """Replace NaN and infinity in evaluators' results by None, which means undefined.

    >>> without_nan({"validation": {"loss": float("nan"), "loss_rpn": 0.5}})
    {'validation': {'loss': None, 'loss_rpn': 0.5}}
    """
    if isinstance(results, dict):
        return {name: without_nan(value) for name, value in results.items()}
    is_undefined = isinstance(results, float) and not math.isfinite(results)
    return None if is_undefined else results


def flatten(values, prefix=""):
    """Return the numbers in nested dicts by their path. The entry "step" is left out.

    >>> flatten({"step": 3, "loss": 0.5, "bbox": {"AP": 0.25, "APs": None}})
    {'loss': 0.5, 'bbox/AP': 0.25}
    """
    numbers = {}
    for name, value in values.items():
        if isinstance(value, dict):
            numbers |= flatten(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and prefix + name != "step":
            numbers[prefix + name] = value
    return numbers
