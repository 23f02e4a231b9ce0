"""Files are written whole or not at all, and read without running code in them. Damage is an error."""

import os
import pickle
import random
import shlex

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from detlite.checkpoint import load_checkpoint, save_checkpoint
from detlite.errors import UserError

CONTENT = {"model": {"a.weight": torch.arange(1000.0)}, "classes": ["cat", "dog"], "step": 7}


class Code:
    """An object whose unpickling creates a folder."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def same(content):
    return torch.equal(content["model"]["a.weight"], CONTENT["model"]["a.weight"])


def test_what_is_saved_comes_back(tmp_path):
    save_checkpoint(CONTENT, tmp_path / "x.pth")
    content = load_checkpoint(tmp_path / "x.pth")
    assert same(content) and content["classes"] == ["cat", "dog"] and content["step"] == 7
    assert {file.name for file in tmp_path.iterdir()} == {"x.pth", ".detlite"}


def test_a_save_that_dies_half_way_leaves_the_old_file(tmp_path, monkeypatch):
    save_checkpoint(CONTENT, tmp_path / "x.pth")

    def die(content, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(UserError, match="x.pth: cannot be written: no space left on device"):
        save_checkpoint({}, tmp_path / "x.pth")
    assert same(load_checkpoint(tmp_path / "x.pth"))


def test_npz_and_safetensors_are_read_with_what_they_say_about_themselves(tmp_path):
    values = np.arange(6, dtype=np.float16).reshape(2, 3)
    np.savez(tmp_path / "x.npz", weight=values, channel_order="BGR", pixel_mean=[1.0, 2.0, 3.0])
    content = load_checkpoint(tmp_path / "x.npz")
    assert content["weight"].dtype == torch.float16 and content["weight"].tolist() == values.tolist()
    assert content["channel_order"] == "BGR" and content["pixel_mean"].tolist() == [1, 2, 3]

    metadata = {"channel_order": "BGR", "pixel_mean": "[1.0, 2.0, 3.0]"}
    save_file({"weight": torch.ones(2, 3)}, tmp_path / "x.safetensors", metadata=metadata)
    content = load_checkpoint(tmp_path / "x.safetensors")
    assert content["weight"].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert content["channel_order"] == "BGR" and content["pixel_mean"] == [1, 2, 3]


@pytest.mark.parametrize("name", ["x.pth", "x.npz", "x.safetensors"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_file_cut_short_is_an_error(tmp_path, name, share):
    path = tmp_path / name
    write(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match=name):
        load_checkpoint(path)


def write(path):
    weights = {"a.weight": torch.arange(1000.0)}
    if path.suffix == ".pth":
        torch.save(weights, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in weights.items()})
    else:
        save_file(weights, path)


@pytest.mark.parametrize("name", ["x.pth", "x.npz"])
def test_a_flipped_bit_in_a_tensor_is_an_error(tmp_path, name):
    path = tmp_path / name
    write(path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(500.0, 510.0).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=name):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["x.pth", "x.npz", "x.safetensors", "old.pth"])
def test_any_damaged_byte_gives_a_user_s_error_or_a_dict(tmp_path, name):
    path = tmp_path / name
    write(path)
    if name == "old.pth":  # before torch 1.6 there were no records with checksums
        torch.save({"a.weight": torch.arange(1000.0)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    draw = random.Random(0)
    errors = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for index in draw.sample([*range(300), *range(len(whole) - 300, len(whole))], 3):
            damaged[index] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            assert isinstance(load_checkpoint(path), (dict, list, torch.Tensor))
        except UserError as error:
            assert name in str(error)
            errors += 1
    assert errors > 10


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", ["x.pth", "x.npz", "x.safetensors", "x.weights"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, name, protocol):
    marker = tmp_path / "ran"
    (tmp_path / name).write_bytes(pickle.dumps({"model": Code(marker)}, protocol=protocol))
    with pytest.raises(UserError, match=name):
        load_checkpoint(tmp_path / name)
    assert not marker.exists()


def test_a_pickle_s_message_has_the_command_of_two_lines_that_converts_it(tmp_path):
    """detectron2's published weights are such files."""
    path = tmp_path / "the author's model_$1.pkl"
    arrays = {"backbone.stem.conv1.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    with pytest.raises(UserError, match="a pickle can run code, so it is not loaded. If you trust it, ") as error:
        load_checkpoint(path)
    _, *lines = str(error.value).split("\n")
    command = "\n  ".join(lines)  # detlite indents the lines; Python joins them
    assert len(lines) == 2
    python, option, code = shlex.split(command)
    assert (python, option) == ("python", "-c")
    exec(code)
    (name,) = load_checkpoint(path.with_suffix(".pth"))["model"]
    assert load_checkpoint(path.with_suffix(".pth"))["model"][name].tolist() == arrays[name].tolist()
    path.unlink()
    torch.save({"a": torch.ones(1)}, path)  # no pickle, whatever its name
    assert load_checkpoint(path) == {"a": torch.ones(1)}


def test_torch_s_own_file_with_code_in_it_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "ran"
    torch.save({"model": Code(marker)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="would run code"):
        load_checkpoint(tmp_path / "x.pth")
    assert not marker.exists()


def test_an_npz_with_objects_is_refused_and_nothing_run(tmp_path):
    marker = tmp_path / "ran"
    np.savez(tmp_path / "x.npz", weight=np.array([Code(marker)], dtype=object))
    with pytest.raises(UserError, match=r"x\.npz"):
        load_checkpoint(tmp_path / "x.npz")
    assert not marker.exists()


def test_text_a_folder_and_nothing_at_all_are_errors_that_name_what_is_there(tmp_path):
    (tmp_path / "notes.pth").write_text("not weights")
    with pytest.raises(UserError, match=r"notes\.pth"):
        load_checkpoint(tmp_path / "notes.pth")
    with pytest.raises(UserError, match=r": Is a directory$"):
        load_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"no such file of weights; did you mean .*/notes\.pth\?"):
        load_checkpoint(tmp_path / "note.pth")
    with pytest.raises(UserError, match=r"no such file of weights; there is no .*/nowhere$"):
        load_checkpoint(tmp_path / "nowhere" / "x.pth")
