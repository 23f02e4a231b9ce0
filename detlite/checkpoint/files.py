"""Files of tensors, written atomically and read without running code in them."""

import contextlib
import io
import json
import pickle
import re
import shlex
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

from detlite.errors import UserError, nearest_path
from detlite.files import open_file
from detlite.writing import open_to_write

PLAIN = (type(None), bool, int, float, str, torch.Tensor)  # types that any checkpoint may hold


def save_checkpoint(content, path):
    """Write a checkpoint: a dict of tensors, numbers, strings, and lists and dicts of these.

    A crash leaves either the old file or the new one. A full disk, for example, is a UserError.
    """
    with open_to_write(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch's writer wraps it
                raise error.__context__ from None
            raise


def check_loadable(content, name=""):
    """Check that :func:`load_checkpoint` will be able to read a state, such as a hook's, which may hold any object.

    The entry and type of an object that only unpickling, which runs code, could restore are named in a UserError.
    """
    if type(content) in (dict, OrderedDict):
        for key, value in content.items():
            check_loadable(key, f"a key of {name}")
            check_loadable(value, f"{name}.{key}".lstrip("."))
    elif type(content) in (list, tuple):
        for index, value in enumerate(content):
            check_loadable(value, f"{name}.{index}")
    elif type(content) not in PLAIN:
        file = io.BytesIO()
        try:
            torch.save(content, file)
            file.seek(0)
            torch.load(file, weights_only=True)
        except Exception:  # pickle and the object itself can raise anything
            kind = f"{type(content).__module__}.{type(content).__qualname__}"
            allowed = "state_dict() may return tensors, numbers, text, and lists and dicts of these"
            raise UserError(f"{name} is a {kind}, which --resume could not read from a checkpoint; {allowed}") from None


def refuse_pickle(source, path):
    """Raise a UserError for a pickle at a path, with the command that converts it. ``source`` is its name."""
    paths = str(path), str(Path(path).with_suffix(".pth"))
    old, new = (json.dumps(text, ensure_ascii=False) for text in paths)  # a shell's quote is '
    code = f'import numpy, torch; data = numpy.load({old}, allow_pickle=True, encoding="latin1"); \\\n'
    code += 'torch.save({"model": {name: torch.as_tensor(array) for name, array in data["model"].items()}}, '
    command = f"python -c {shlex.quote(f'{code}{new})')}"
    remedy = f"If you trust it, convert it by this command:\n{command}"
    raise UserError(f"{source}: a pickle can run code, so it is not loaded. {remedy}")


def load_checkpoint(path, suffix=None):
    """Read a file of weights onto the CPU, and return the saved object.

    A .npz or .safetensors file gives a dict from name to tensor, with text as plain values; an .onnx file of ``detlite
    export`` gives "session", "classes" and "config"; others (.pth, .pt) are read as files of torch.save. ``suffix``
    replaces the path's own.

    Raises:
        UserError: there is no such file, it is damaged (checksums are verified where the format has them), or it holds
            objects that only unpickling, which runs code, could restore.
    """
    path = Path(path)
    suffix = suffix or path.suffix
    try:
        open_file(path).close()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of weights{nearest_path(path)}") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None

    if suffix == ".pkl" and not zipfile.is_zipfile(path):  # torch.save writes zip files
        refuse_pickle(path, path)

    # None of these readers runs code from the file.
    try:
        if suffix == ".npz":
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: _from_numpy(name, arrays[name]) for name in arrays.files}
        if suffix == ".safetensors":
            return _load_safetensors(path)
        if suffix == ".onnx":
            return _open_onnx(path)
        _verify_checksums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (UserError, MemoryError):
        raise
    except ImportError as error:
        raise UserError(f"{path}: reading it needs the package {error.name}: pip install {error.name}") from None
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        named = f" ({match[1]})" if match else ""
        cause = f"the file is damaged or contains objects{named} other than tensors, numbers and text"
        raise UserError(f"{path}: not loaded: {cause}. Loading such objects would run code from the file") from None
    except Exception as error:  # a damaged file can raise anything
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"{path}: cannot be read as weights, perhaps incomplete: {reason}") from None


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
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    for name, text in metadata.items():
        with contextlib.suppress(ValueError):  # lists of numbers are stored as JSON, names as plain text
            metadata[name] = json.loads(text)
    return metadata | load_file(path)


def _open_onnx(path):
    """Open a file of ``detlite export`` with onnxruntime, and read its metadata."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    names = [value.name for value in (*session.get_inputs(), *session.get_outputs())]
    if names != ["images", "boxes", "scores", "labels", "counts"] or not {"classes", "config"} <= set(metadata):
        raise UserError(f"{path}: not a detector of `detlite export`, or of an earlier version; export it again")
    return {"session": session, "classes": json.loads(metadata["classes"]), "config": metadata["config"]}
