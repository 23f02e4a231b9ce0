import importlib.util
import json
import sys

import pytest

import speed
from detlite.cli import run_command
from detlite.errors import UserError
from detlite.inspection.speed import Task
from variants import VARIANTS

NARROW = {  # a detector with a counterpart in torchvision
    "MODEL.BACKBONE.DEPTH": 11,
    "MODEL.BACKBONE.WIDTH": 0.0625,
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.CLASSES": ["cat", "dog"],
    "MODEL.RPN.HEAD.CONV_DIM": 32,
    "MODEL.RPN.HEAD.INIT_STD": 0.1,
    "MODEL.RPN.ANCHOR_GENERATOR.SIZES": [16, 32],
    "MODEL.RPN.MIN_SIZE": 1e-3,
    "MODEL.RPN.POST_NMS_TOP_N_TEST": 20,
    "MODEL.ROI_HEADS.CLASS_INIT_STD": 0.3,
    "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": 16,
}


def task(**changes):
    opts = tuple(word for pair in NARROW.items() for word in pair)
    return Task(**{"opts": opts, "size": (64, 96), "threads": 1} | changes)


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("name", ["detlite", "torchvision"])
def test_the_stages_of_a_run_are_parts_of_its_time(name, mode):
    seconds = VARIANTS[name](task(mode=mode)).run()
    total = seconds.pop("total")
    assert {"preprocess", "backbone", "RPN head", "proposals", "pooling", "box head"} <= set(seconds)
    assert all(0 <= stage <= total for stage in seconds.values())
    if mode == "training":
        assert seconds["forward"] + seconds["backward"] + seconds["optimizer"] <= total
    else:
        named = sum(seconds.values()) - seconds["not convolution or product"]
        assert named <= total


@pytest.mark.parametrize("name", ["torchvision", "detectron2"])
def test_the_others_detectors_are_run_with_our_weights(name):
    if name == "detectron2" and not importlib.util.find_spec(name):
        pytest.skip("detectron2 is not on PyPI")
    found = []
    for variant in ("detlite", name):
        speed.prepare(task(), variant)
        found.append(speed.describe()["detections"])
    apart = speed.difference(*found)
    assert apart["detections"] == apart["reference_detections"] > 0
    assert apart["score"] < 1e-5 and apart["box"] < 1e-2


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_the_bare_variant_has_every_convolution_and_linear_layer_once(mode):
    bare = VARIANTS["bare, best"](task(mode=mode))
    shapes = [tuple(weight.shape) for _, _, weight, *_ in bare.calls]
    assert len(shapes) == 8 + 3 + 2 + 2  # VGG-11's, the RPN head's, fc6 and fc7, the predictor's
    assert shapes[0] == (4, 3, 3, 3)
    assert shapes[-4:] == [(16, 32 * 7 * 7), (16, 16), (3, 16), (12, 16)]
    assert bare.run().keys() == {"total"}


def test_the_script_measures_every_combination_in_separate_processes(tmp_path, capsys):
    path = tmp_path / "results.json"
    opts = [str(word) for word in task().opts]
    words = ["--modes", "inference", "--sizes", "32x48", "--variants", "detlite", "--rounds", "2", "--threads", "1"]
    words += ["--json", str(path), *opts, "--vary", "MODEL.RPN.NMS.IOU", "0.5"]
    assert run_command(speed, words, "speed.py") == 0
    (result,) = json.loads(path.read_text())
    assert result["size"] == [32, 48] and result["opts"][-2:] == ["MODEL.RPN.NMS.IOU", "0.5"]
    row = result["variants"]["detlite"]
    assert row["ratio"] == 1 and 0 < row["low"] <= row["median"] <= row["high"]
    assert row["peak_memory"] > 2**20
    assert "| detlite" in capsys.readouterr().out


def test_what_no_variant_is_and_what_torchvision_cannot_do_is_said():
    with pytest.raises(UserError, match="variants are detlite, torchvision"):
        speed.compare(task(), ["detectron"])
    with pytest.raises(UserError, match="torchvision: torchvision has a counterpart of single-level VGG"):
        speed.compare(task(opts=(*task().opts, "MODEL.RPN.HEAD.CONV_DIM", 8)), ["torchvision"], rounds=1)


def test_without_detectron2_its_row_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2.layers", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "detectron2", None)
    with pytest.raises(UserError, match="detectron2 is not installed here"):
        VARIANTS["detectron2"](task())
