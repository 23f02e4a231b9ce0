"""Files of tensors, written atomically and read without running code in them."""

import contextlib
import json
import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import torch

from detlite.errors import UserError, suggest

PARTIAL = ".part"  # suffix of a file that is being written
SUFFIXES = (".pth", ".pt", ".npz", ".safetensors")


def save_checkpoint(content, path):
    """Write a checkpoint. A crash leaves either the old file or the new one.

    An OSError is raised if the file cannot be written, for example because the disk is full.

    Args:
        content: dict of tensors, numbers, strings, and lists and dicts of these.
        path: the file; its folder exists.
    """
    try:
        with open_atomically(path) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        if isinstance(error.__context__, OSError):  # torch's writer wraps it in a RuntimeError
            raise error.__context__ from None
        raise


@contextlib.contextmanager
def open_atomically(path, suffix=PARTIAL):
    """Open a binary file for writing that replaces the old one only when complete.

    The content is first written to a second file, whose name ends in ``suffix``. An error removes it.
    """
    path = Path(path)
    aside = path.with_name(path.name + suffix)
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)

    # The new name survives a power failure only after the folder is on disk.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load_checkpoint(path):
    """Read a file of weights onto the CPU.

    Args:
        path: a .npz or .safetensors file; any other suffix (.pth, .pt) is read as a file of torch.save.

    Returns:
        the saved object; of .npz and .safetensors a dict from name to tensor, with text as plain values.

    Raises:
        UserError: there is no such file, it is damaged (checksums are verified where the format has them), or it holds
            objects that only unpickling, which runs code, could restore.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: a folder, not a file of weights{_similar_files('', path)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights{_similar_files(path.name, path.parent)}")

    # None of these readers runs code from the file.
    try:
        if path.suffix == ".npz":
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: _from_numpy(name, arrays[name]) for name in arrays.files}
        if path.suffix == ".safetensors":
            return _load_safetensors(path)
        _verify_checksums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        named = f" ({match[1]})" if match else ""
        raise UserError(
            f"{path}: not loaded: the file is damaged or contains objects{named} other than tensors, numbers and text. "
            "Loading such objects would run code from the file"
        ) from None
    except Exception as error:  # a damaged file can raise anything
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"{path}: cannot be read as weights, perhaps incomplete: {reason}") from None


def _similar_files(name, folder):
    """Return the end of an error message: the folder's files of weights, if any."""
    names = [file.name for file in folder.glob("*") if file.suffix in SUFFIXES]
    return suggest(name, names) if names else ""


def _from_numpy(name, array):
    if array.dtype.kind == "U":
        return array.tolist()
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} is an array of {array.dtype}, not of numbers")
    return torch.from_numpy(array)


def _verify_checksums(path):
    """Raise an error if a file of torch.save is damaged, which torch.load ignores."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as records:
        has_checksums = any(record.CRC for record in records.infolist())  # set_crc32_options(False) omits them
        damaged = records.testzip() if has_checksums else None
    if damaged:
        raise UserError(f"{path}: damaged: wrong checksum of its record {damaged}")


def _load_safetensors(path):
    try:
        from safetensors import safe_open
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"{path}: reading safetensors needs the package safetensors: pip install safetensors") from None
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    for name, text in metadata.items():
        with contextlib.suppress(ValueError):  # lists of numbers are stored as JSON, names as plain text
            metadata[name] = json.loads(text)
    return metadata | load_file(path)
