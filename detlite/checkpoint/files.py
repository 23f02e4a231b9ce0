"""Files that hold tensors: written whole or not at all, read without running anything that is in them."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch

from detlite.errors import UserError, suggest


def save_checkpoint(content, path):
    """Write a checkpoint so that a crash at any moment leaves either the old file or the new one, never half of one.

    Args:
        content: dict of tensors, numbers, strings, and lists and dicts of these.
        path: the file; its folder exists.
    """
    path = Path(path)
    aside = path.with_name(path.name + ".part")
    with open(aside, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load_checkpoint(path):
    """What a .pth, .pt, .npz or .safetensors file holds, on the CPU.

    Args:
        path: the file.

    Returns:
        for .pth and .pt what was saved; for the others a dict from name to tensor.

    Raises:
        UserError: there is no such file, it is damaged, or it holds objects that only unpickling, which runs code,
            could bring back.
    """
    path = Path(path)
    if not path.is_file():
        siblings = [file.name for file in path.parent.glob("*") if file.is_file()] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file of weights" + (suggest(path.name, siblings) if siblings else ""))
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        if path.suffix == ".safetensors":
            return _load_safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{path}: not loaded: it is damaged, or it holds more than tensors, numbers and text, and loading that "
            f"would run code from the file ({reason})"
        ) from None
    except (EOFError, KeyError, OSError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path}: cannot be read as weights, perhaps cut short: {reason}") from None


def _load_safetensors(path):
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"{path}: reading safetensors needs the package safetensors: pip install safetensors") from None
    return load_file(path)
