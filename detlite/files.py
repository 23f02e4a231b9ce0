"""Files of users, opened safely."""

import errno
import json
import math
import os
import stat
from pathlib import Path

from detlite.errors import UserError, nearest_path, shortened

TEXT_LIMIT = 2**20  # bytes of a config or a list; the 21,841 class names of ImageNet take 0.6 MB
DATA_LIMIT = 8 * 2**30  # bytes of a file of annotations or predictions; Python needs several times as much to parse it


def user_path(text):
    """Return a path that a user typed. A leading ~ is the home folder."""
    return Path(os.path.expanduser(text))


def open_file(path):
    """Open a regular file to read its bytes. A folder, device or pipe, which would block, is an OSError."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return open(path, "rb")


def read_bytes(path, purpose="", limit=DATA_LIMIT):
    """Return the bytes of a regular file of at most ``limit`` bytes, or raise a UserError.

    ``purpose`` are words that end a message, such as " (CocoDataset's ANNOTATIONS)".
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= limit:
                return file.read(max(size, TEXT_LIMIT))  # the system's files in /proc state no size
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: {reason}{purpose}{nearest_path(path)}") from None
    sizes = f"{size / 2**20:,.1f} MiB, expected at most {limit / 2**20:,.0f} MiB"
    raise UserError(f"{path}: {sizes}{purpose}")


def read_text(path, purpose="", limit=DATA_LIMIT, errors="strict"):
    """Return the text of a UTF-8 file, without a byte order mark, or raise a UserError.

    See :func:`read_bytes` for ``purpose`` and ``limit``, and :meth:`bytes.decode` for ``errors``.
    """
    data = read_bytes(path, purpose, limit)
    try:
        return data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8: byte {data[error.start]:#04x}; save the file as UTF-8") from error


def read_json(path, purpose="", object_pairs_hook=None):
    """Return the content of a JSON file. A UserError about content that is not JSON has a ValueError as its cause."""
    text = read_text(path, purpose)
    try:
        return json.loads(text, object_pairs_hook=object_pairs_hook)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file: {error}") from error


def read_json_lines(path):
    """Return the objects in a file with one JSON object per line, or raise a UserError.

    The last line is left out if it is incomplete, as after a run that was killed or that still runs.
    """
    rows = []
    lines = read_text(path).splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise UserError(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: expected a JSON object, got {shortened(row)}")
        rows.append(row)
    return rows


def without_nan(results):
    """Replace NaN and infinity in evaluators' results by None, which means undefined."""
    if isinstance(results, dict):
        return {name: without_nan(value) for name, value in results.items()}
    if isinstance(results, float):  # numpy's numbers, too, which other processes could not read
        return float(results) if math.isfinite(results) else None
    return results


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
