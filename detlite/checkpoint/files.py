"""Files that hold tensors: written whole or not at all, read without running anything that is in them."""

import json
import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import torch

from detlite.errors import UserError, suggest

PARTIAL = ".part"  # ends the name of a file that is being written


def save_checkpoint(content, path):
    """Write a checkpoint so that a crash at any moment leaves either the old file or the new one, never half of one.

    Args:
        content: dict of tensors, numbers, strings, and lists and dicts of these.
        path: the file; its folder exists.

    Raises:
        OSError: it cannot be written, for want of space for instance; what was written of it is removed.
    """
    path = Path(path)
    aside = path.with_name(path.name + PARTIAL)
    try:
        with open(aside, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:
        aside.unlink(missing_ok=True)
        if isinstance(error.__context__, OSError):  # torch's writer hides it behind an error of its own
            raise error.__context__ from None
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load_checkpoint(path):
    """What a file of weights holds, on the CPU.

    Args:
        path: .npz and .safetensors are read as such; anything else as what torch.save wrote (.pth, .pt).

    Returns:
        what was saved; of .npz and .safetensors a dict from name to tensor, or to plain values for text.

    Raises:
        UserError: there is no such file, it is damaged (checksums are compared, where the format has them), or it holds
            objects that only unpickling, which runs code, could bring back.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: a folder, not a file of weights{_nearest('', path)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights{_nearest(path.name, path.parent)}")
    try:
        if path.suffix == ".npz":
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: _from_numpy(name, arrays[name]) for name in arrays.files}
        if path.suffix == ".safetensors":
            return _load_safetensors(path)
        _check_sums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"{path}: not loaded: it is no file of weights, or damaged, or holds more than tensors, numbers and text, "
            "and loading that would run code from the file" + (f" (it names {named[1]})" if named else "")
        ) from None
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{path}: cannot be read as weights, perhaps cut short: {_first_line(error)}") from None


def _nearest(name, folder):
    known = (".pth", ".pt", ".npz", ".safetensors")
    names = [file.name for file in folder.glob("*") if file.suffix in known] if folder.is_dir() else []
    return suggest(name, names) if names else ""


def _first_line(error):
    return str(error).strip().split("\n")[0] or type(error).__name__


def _from_numpy(name, array):
    if array.dtype.kind == "U":
        return array.tolist()
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} is an array of {array.dtype}, not of numbers")
    return torch.from_numpy(array)


def _check_sums(path):
    """torch.load takes a file with flipped bits as it is; its records carry checksums, unless they were turned off."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as records:
            if any(record.CRC for record in records.infolist()):
                damaged = records.testzip()
                if damaged:
                    raise UserError(f"{path}: damaged: the checksum of its record {damaged} does not agree")


def _load_safetensors(path):
    try:
        from safetensors import safe_open
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"{path}: reading safetensors needs the package safetensors: pip install safetensors") from None
    with safe_open(path, framework="pt") as file:
        metadata = {name: _from_json(text) for name, text in (file.metadata() or {}).items()}
    return {**metadata, **load_file(path)}


def _from_json(text):
    """Safetensors' metadata are strings; a list of numbers in one is JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text
