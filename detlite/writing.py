"""The one place that writes files: whole or not at all, and never over a file that detlite did not write."""

import codecs
import contextlib
import csv
import json
import os
import uuid
from pathlib import Path

from detlite.errors import UserError
from detlite.files import open_file, user_path

RECORD = ".detlite"  # in each folder: the names of the files that detlite writes there, one JSON string per line
PART = r"\.[0-9a-f]{8}\.part"  # pattern of the suffix of a file that is being written


@contextlib.contextmanager
def explain_write_errors(path):
    """Turn an OSError in the block into the message that a file or folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def claim(*paths, inputs=(), adopt=False):
    """List files in the records of their folders, before detlite writes them. Missing folders are made.

    Args:
        paths: the files, as Path.
        inputs: files that the command reads.
        adopt: whether to list existing files as well: an earlier version of detlite wrote them.

    Raises:
        UserError: a file is an input, it is a folder, a pipe or a link, it exists and is not listed, or the folder
            cannot be written.
    """
    inputs = set(map(os.path.realpath, inputs))
    folders = {}  # folder: its files
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    for folder, files in folders.items():
        with explain_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            listed = _read_record(folder)
        for path in files:
            if inputs and os.path.realpath(path) in inputs:
                raise UserError(f"{path} would be overwritten, but it is an input; choose another folder")
            with explain_write_errors(path):
                exists = os.path.lexists(path)
                if exists and (path.is_symlink() or not path.is_file()):  # a pipe would block, a link leads elsewhere
                    raise UserError(f"{path} is not a regular file; remove it, or choose another output")
            if exists and not adopt and path.name not in listed:
                raise UserError(f"{path} exists, and {RECORD} does not list it as detlite's; choose another output")

        # The last line may be incomplete after a crash, so each name begins with a line break.
        lines = "".join(f"\n{json.dumps(path.name)}" for path in files if path.name not in listed)
        if lines:
            with explain_write_errors(folder), open(folder / RECORD, "ab", opener=without_links) as file:
                file.write(lines.encode())


def without_links(path, flags):
    """Open a file, as ``opener`` of :func:`open`, but not through a symbolic link, which may lead to a user's file."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _read_record(folder):
    """Return the names in a folder's record."""
    names = set()
    with contextlib.suppress(FileNotFoundError), open_file(folder / RECORD) as file:
        for line in file:
            with contextlib.suppress(ValueError, TypeError, RecursionError):  # a broken line
                names.add(json.loads(line))
    return names


@contextlib.contextmanager
def open_atomically(path, durable=True):
    """Open a binary file for writing that replaces the old one only when complete.

    The content is first written to a second file, whose name ends in PART. An error removes it. A ``durable`` file
    survives a power failure, which takes milliseconds.
    """
    path = Path(path)
    aside = path.with_name(f"{path.name[:50]}.{uuid.uuid4().hex[:8]}.part")
    try:
        with open(aside, "xb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)

    # The new name survives a power failure only after the folder is on disk. Not every system can do that.
    if durable:
        with contextlib.suppress(OSError):
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


@contextlib.contextmanager
def open_to_write(path):
    """Open a binary file of detlite's output: :func:`claim` it, and replace it when complete.

    Raises:
        UserError: the file cannot be written, or it exists and detlite did not write it.
    """
    path = user_path(path)
    claim(path)
    with explain_write_errors(path), open_atomically(path) as file:
        yield file


def write_text(text, path):
    """Write a text file in UTF-8. Bytes of file names that are no characters are escaped."""
    with open_to_write(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def write_json(value, path):
    """Write a value as JSON. NaN and infinity are refused."""
    write_text(json.dumps(value, allow_nan=False), path)


def write_csv(rows, path, columns):
    """Write dicts as a CSV file, one by one. Its first row names the columns, which are the dicts' keys.

    A text that a spreadsheet would run as a formula gets a quote (') in front.
    """
    with open_to_write(path) as file:
        writer = csv.DictWriter(codecs.getwriter("utf-8")(file, "backslashreplace"), columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _plain_cell(value) for key, value in row.items()})


def _plain_cell(value):
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value


def write_table(rows, path):
    """Write a list of dicts that share their keys to ``path``.json and ``path``.csv."""
    write_json(rows, f"{path}.json")
    write_csv(rows, f"{path}.csv", list(rows[0]) if rows else [])


def write_picture(picture, path):
    """Write a PIL image in the format of the file's suffix, JPEG or PNG. The caller has claimed the file."""
    with explain_write_errors(path), open_atomically(path, durable=False) as file:
        picture.save(file, "PNG" if str(path).endswith(".png") else "JPEG", quality=90)
