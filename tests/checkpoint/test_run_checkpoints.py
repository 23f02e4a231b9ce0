"""A run's numbered checkpoints: the newest whole one counts, the last few are kept."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from detlite.checkpoint import save_checkpoint
from detlite.checkpoint.run_checkpoints import CheckpointSeries
from detlite.errors import UserError


def content(step):
    return {"step": step, "model": {"weight": torch.full((1000,), float(step))}}


def save(folder, *steps, keep=2):
    series = CheckpointSeries(folder, keep)
    for step in steps:
        series.save(content(step), step)
    return series


def tear(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def test_the_last_ones_are_kept(tmp_path):
    save(tmp_path, 5, 10, 15, 20)
    assert sorted(file.name for file in tmp_path.glob("*.p*")) == ["checkpoint_0000015.pth", "checkpoint_0000020.pth"]


def test_numbers_are_ordered_as_numbers(tmp_path):
    assert save(tmp_path, 9_999_995, 10_000_000).load_newest()[1]["step"] == 10_000_000


def test_other_files_are_none_of_them(tmp_path):
    (tmp_path / "checkpoint_mine.pth").write_text("mine")
    assert CheckpointSeries(tmp_path).load_newest() is None


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_before_a_torn_one_the_one_before_it_is_taken(tmp_path, share):
    series = save(tmp_path, 5, 10)
    tear(series.path(10), share)
    path, state = series.load_newest()
    assert path == series.path(5) and state["step"] == 5 and state["model"]["weight"].unique().tolist() == [5]


def test_a_torn_one_does_not_push_out_whole_ones(tmp_path):
    series = save(tmp_path, 5, 10)
    tear(series.path(10))
    series.save(content(7), 7)
    assert series.steps() == [5, 7]


def test_if_all_are_damaged_the_run_does_not_begin_anew(tmp_path):
    series = save(tmp_path, 5, 10)
    for step in (5, 10):
        tear(series.path(step))
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read: .*0000010\.pth.*0000005\.pth"):
        series.load_newest()


def test_a_full_disk_leaves_the_others_and_nothing_half_written(tmp_path, full_disk):
    series = save(tmp_path, 5, 10)
    with full_disk(4000), pytest.raises(UserError, match=r"0000015\.pth: cannot be written: File too large"):
        series.save({"weight": torch.zeros(100000)}, 15)
    assert series.steps() == [5, 10] and len(list(tmp_path.glob("*.p*"))) == 2
    save_checkpoint({"weight": torch.zeros(100000)}, series.path(15))
    assert series.load_newest()[0] == series.path(15)


class Own:
    pass


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"best": np.float64(0.5)}, r"hooks\.Own\.best is a numpy\.float64, which --resume could not read"),
        ({"paths": [1, (Path("x"),)]}, r"hooks\.Own\.paths\.1\.0 is a pathlib(\._local)?\.PosixPath"),
        ({np.int64(3): 1}, r"a key of hooks\.Own is a numpy\.int64"),
        ({"own": {"x": Own()}}, r"hooks\.Own\.own\.x is a .*\.Own"),
        ({"f": lambda: 0}, r"hooks\.Own\.f is a builtins\.function"),
    ],
)
def test_a_state_that_could_not_be_read_is_not_saved(tmp_path, state, message):
    series = save(tmp_path, 5)
    with pytest.raises(UserError, match=message):
        series.save({**content(10), "hooks": {"Own": state}}, 10)
    assert series.load_newest()[1]["step"] == 5


def test_all_types_that_a_checkpoint_can_hold_are_saved_and_read(tmp_path):
    values = [None, True, 1, 0.5, "x", b"x", {1, 2}, torch.Size([2]), torch.float16, torch.device("cpu"), 1j]
    state = OrderedDict(values=values, nested={(1, "a"): (torch.ones(2), torch.nn.Parameter(torch.ones(1)))})
    series = save(tmp_path, 5)
    series.save({"hooks": state}, 6)
    assert series.load_newest()[1]["hooks"]["values"] == values
