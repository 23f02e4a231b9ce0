"""The times of a detector and its stages."""

import json
from pathlib import Path

import pytest
import torch

from detlite.cli import main
from detlite.inspection.speed import Task, measure, timed_detector

NARROW = {
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.DEPTH": 11,
    "MODEL.BACKBONE.WIDTH": 0.0625,
    "MODEL.RPN.HEAD.CONV_DIM": 16,
    "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": 16,
}


def task(**changes):
    opts = tuple(word for pair in NARROW.items() for word in pair)
    return Task(**{"opts": opts, "size": (64, 96), "threads": 1} | changes)


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_the_stages_of_a_run_are_parts_of_its_time(mode):
    seconds = timed_detector(task(mode=mode)).run()
    total = seconds.pop("total")
    assert {"preprocess", "backbone", "RPN head", "proposals", "pooling", "box head"} <= set(seconds)
    assert all(0 <= stage <= total for stage in seconds.values())
    assert ("postprocess" in seconds) == (mode == "inference")
    if mode == "training":
        assert seconds["forward"] + seconds["backward"] + seconds["optimizer"] <= total
    else:
        assert sum(seconds.values()) - seconds["not convolution or product"] <= total


def test_on_a_gpu_stages_wait_for_it_and_the_total_is_of_a_run_that_does_not_wait_for_stages(monkeypatch):
    waits, begins = [], []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    model = timed_detector(task())
    model.device = torch.device("cuda:1")
    detect = model.detect
    model.detect = lambda: begins.append(len(waits)) or detect()
    seconds = model.run()
    with_stages, without_stages = begins
    assert with_stages == 1  # before the run
    assert without_stages - with_stages > 2 * 7  # before and after each of seven stages, after the run, before the next
    assert len(waits) - without_stages == 1  # after the run
    assert set(waits) == {torch.device("cuda:1")} and seconds["total"] > 0


def test_a_detector_without_roi_heads_has_fewer_stages():
    opts = task().opts[:-2]  # FC_DIM is a key of the RoI heads
    result = measure(task(opts=(*opts, "MODEL.NAME", "ProposalNetwork")), rounds=1)
    assert "proposals" in result["stages"] and "box head" not in result["stages"]


def test_the_command_measures_every_combination(booby_trapped, tmp_path, capsys):
    path = tmp_path / "results.json"
    Path("own.yaml").write_text("MODEL: {RPN: {NMS: {IOU: 0.5}}}")
    opts = [str(word) for word in task().opts]
    words = ["--modes", "inference", "--sizes", "32x48", "64x48", "--rounds", "2", "--threads", "1"]
    assert main([*words, "--json", str(path), "--config-file", "own.yaml", *opts], "benchmark") == 0
    results = json.loads(path.read_text())
    assert [result["size"] for result in results] == [[32, 48], [64, 48]]
    for result in results:
        assert result["config"] == "own.yaml" and result["device"] == "cpu"
        assert 0 < result["low"] <= result["median"] <= result["high"]
        assert result["peak_memory"] > 2**20
    assert "| backbone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sizes", "600"], "--sizes: expected HEIGHTxWIDTH, such as 600x800, got '600'"),
        (["--rounds", "0"], "--rounds: expected a whole number of at least 1"),
        (["MODEL.BACKBONE.DEPTH", "12"], "MODEL.BACKBONE.DEPTH"),
    ],
)
def test_mistakes_on_its_command_line_are_said(words, message, capsys):
    assert main(words, "benchmark") == (2 if message.startswith("--") else 1)
    assert message in capsys.readouterr().err
