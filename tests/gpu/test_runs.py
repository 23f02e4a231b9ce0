"""Runs on a CUDA GPU: training, resuming, evaluation, and export of what was trained."""

import json

import pytest
import torch

from detlite.cli import main
from detlite.config import load_config
from detlite.engine.test import test as run_test
from detlite.engine.train import train
from detlite.prediction.detector import Detector

SAME_AP = 0.002  # the largest difference of AP between devices
LEARNS = {
    "MODEL__BACKBONE__NORM": "BatchNorm",
    "MODEL__BACKBONE__WIDTH": 0.125,
    "MODEL__RPN__MIN_SIZE": 4,
    "MODEL__ROI_HEADS__POOLER__NAME": "RoIAlign",
    "MODEL__ROI_HEADS__BOX_HEAD__DROPOUT": 0.0,
    "DATASETS__TRAIN": [{"NAME": "ShapesDataset", "IMAGE_SIZE": 64, "NUM_IMAGES": 200}],
    "DATASETS__TEST": {"NAME": "ShapesDataset", "IMAGE_SIZE": 64, "NUM_IMAGES": 20, "SEED": 1000},
    "SOLVER__BATCH_SIZE": 4,
    "SOLVER__MAX_ITER": 120,
    "SOLVER__LOG_PERIOD": 60,
    "SOLVER__OPTIMIZER__LR": 0.02,
    "SOLVER__LR_SCHEDULER__WARMUP_ITERS": 20,
    "EVALUATION__PICTURES": 0,
}


@pytest.fixture
def run_config(tiny_opts, tmp_path, device):
    """A function: (name of the output folder, changes of the config) -> config on the device under test."""

    def make(name, **changes):
        settings = {"OUTPUT_DIR": str(tmp_path / name), "MODEL__DEVICE": device, **changes}
        return load_config(opts=tiny_opts(**settings))

    return make


def read_losses(folder):
    """Return {step: loss} of a run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def test_a_trained_detector_has_the_same_ap_on_both_devices(run_config, tmp_path, strict_float32):
    trained = train(run_config("output", **LEARNS))["bbox"]
    weights = tmp_path / "output" / "model_final.pth"
    on_device = run_test(run_config("device", **LEARNS), weights)["bbox"]
    on_cpu = run_test(run_config("cpu", **{**LEARNS, "MODEL__DEVICE": "cpu"}), weights)["bbox"]
    assert on_cpu["AP50"] > 0.01
    for name in ("AP", "AP50"):
        assert abs(on_device[name] - on_cpu[name]) <= SAME_AP
        assert abs(on_device[name] - trained[name]) <= SAME_AP


def test_a_resumed_run_does_what_the_whole_run_did(run_config, tmp_path, device, strict_float32):
    cfg = run_config("output", SOLVER__CHECKPOINT_PERIOD=3, MODEL__ROI_HEADS__BOX_HEAD__DROPOUT=0.0)
    train(cfg)
    folder = tmp_path / "output"
    whole = read_losses(folder)
    for name in ("model_final.pth", "checkpoint_0000006.pth"):
        (folder / name).unlink()
    train(cfg, resume=True)
    resumed = read_losses(folder)
    assert resumed.keys() == whole.keys() == {1, 2, 3, 4, 5, 6}

    # CUDA adds in a changing order, and each step builds on the one before.
    if device == "cpu":
        assert resumed == whole
    assert resumed[4] == pytest.approx(whole[4], rel=1e-3)


def test_a_detector_on_the_device_is_exported(checkpoint, tmp_path, device, strict_float32, capsys):
    path = checkpoint(MODEL__DEVICE=device)
    assert main(["export", "--weights", str(path), "--output", str(tmp_path / "model.pt2")]) == 0
    graph = torch.export.load(tmp_path / "model.pt2").module()
    images = torch.randint(256, (2, 3, 80, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes, scores, labels, counts = graph(images)

    model = Detector.from_checkpoint(path, device=device).model
    with torch.inference_mode():
        expected = model(list(images))
    assert counts.tolist() == [len(found["labels"]) for found in expected] and counts.sum() > 0
    for index, found in enumerate(expected):
        rows = (index, slice(len(found["labels"])))
        torch.testing.assert_close(scores[rows], found["scores"].cpu(), atol=1e-3, rtol=0)
        torch.testing.assert_close(boxes[rows], found["boxes"].cpu(), atol=0.02, rtol=0)
        assert torch.equal(labels[rows], found["labels"].cpu())
