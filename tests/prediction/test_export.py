"""Exported graphs give the detector's detections, for batches and sizes other than the example's."""

import json
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from torchvision.transforms.v2.functional import to_pil_image

from detlite.cli import main
from detlite.data import ShapesDataset
from detlite.errors import UserError
from detlite.prediction.detector import Detector
from detlite.prediction.export_graph import BatchDetector

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_without_detlite.py"
BATCHES = [(1, 64, 64), (3, 64, 64), (1, 50, 97), (3, 50, 97), (1, 81, 33), (3, 81, 33)]
FPN = {
    "MODEL__BACKBONE": {"NAME": "FPN", "OUT_CHANNELS": 8, "BOTTOM_UP": {"DEPTH": 11, "WIDTH": 0.0625, "FREEZE_AT": 0}},
    "MODEL__RPN__ANCHOR_GENERATOR__SIZES": [[8], [16], [32], [64]],
    "MODEL__ROI_HEADS__POOLER__NAME": "MultiLevelPooler",
}
DETECTORS = {
    "classic": {},
    "RoIAlign and sigmoid": {
        "MODEL__ROI_HEADS__POOLER__NAME": "RoIAlign",
        "MODEL__ROI_HEADS__BOX_OUTPUTS": "agnostic",
        "MODEL__RPN__HEAD__OBJECTNESS": "sigmoid",
        "MODEL__CHANNEL_ORDER": "RGB",
    },
    "FPN": FPN,
    "cascade": {"MODEL__ROI_HEADS__NAME": "CascadeRoIHeads"},
    "proposals": {"MODEL__NAME": "ProposalNetwork"},
}


def images(count, height, width):
    """Return (count, 3, height, width) uint8, all different."""
    dataset = ShapesDataset(image_size=max(height, width), seed=9)
    return torch.stack([dataset[index][0].as_subclass(torch.Tensor)[:, :height, :width] for index in range(count)])


def assert_same_detections(model, outputs, batch):
    boxes, scores, labels, counts = (torch.as_tensor(output) for output in outputs)
    with torch.inference_mode():
        expected = model(list(batch))
    assert counts.tolist() == [len(image["labels"]) for image in expected] and sum(counts) > 0
    for index, (image, count) in enumerate(zip(expected, counts.tolist(), strict=True)):
        torch.testing.assert_close(scores[index, :count], image["scores"], atol=1e-3, rtol=0)
        torch.testing.assert_close(boxes[index, :count], image["boxes"], atol=1e-3, rtol=0)
        assert torch.equal(labels[index, :count], image["labels"])
        assert not boxes[index, count:].any() and not scores[index, count:].any() and not labels[index, count:].any()


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("shape", BATCHES[1:4])
def test_one_graph_for_all_images_detects_what_the_detector_does_one_by_one(checkpoint, name, shape):
    model = Detector.from_checkpoint(checkpoint(**DETECTORS[name]), device="cpu").model
    batch = images(*shape)
    with torch.inference_mode():
        assert_same_detections(model, BatchDetector(model)(batch), batch)


@pytest.mark.parametrize("name", DETECTORS)
def test_onnxruntime_detects_what_the_detector_does_at_all_batches_and_sizes(checkpoint, tmp_path, name, capsys):
    path = checkpoint(**DETECTORS[name])
    assert main(["export", "--weights", str(path), "--output", str(tmp_path / "model.onnx")]) == 0
    assert "boxes, scores, labels, counts" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["circle", "square", "triangle"]
    model = Detector.from_checkpoint(path, device="cpu").model
    for shape in BATCHES:
        batch = images(*shape)
        assert_same_detections(model, session.run(None, {"images": batch.numpy()}), batch)

    picture = tmp_path / "picture.png"
    to_pil_image(images(1, 50, 97)[0]).save(picture)
    example = [sys.executable, str(EXAMPLE), str(tmp_path / "model.onnx"), str(picture)]
    lines = subprocess.run(example, capture_output=True, text=True, check=True).stdout.splitlines()
    found = Detector.from_checkpoint(path, device="cpu")(picture)
    assert [line.split()[0] for line in lines] == found["names"]


def test_a_torch_program_detects_what_the_detector_does(checkpoint, tmp_path):
    path = checkpoint()
    arguments = ["export", "--weights", str(path), "--output", str(tmp_path / "model.pt2")]
    assert main(arguments) == 0
    extra = {"classes.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    assert json.loads(extra["classes.json"]) == ["circle", "square", "triangle"]
    model = Detector.from_checkpoint(path, device="cpu").model
    for shape in BATCHES:
        batch = images(*shape)
        assert_same_detections(model, program(batch), batch)


@pytest.mark.parametrize("threshold", [0, 1])
def test_all_or_no_regions_above_the_threshold(checkpoint, threshold):
    model = Detector.from_checkpoint(checkpoint(MODEL__ROI_HEADS__SCORE_THRESHOLD=threshold), device="cpu").model
    batch = images(2, 64, 64)
    with torch.inference_mode():
        outputs = BatchDetector(model)(batch)
        if threshold:
            assert outputs[3].tolist() == [0, 0] and not outputs[0].any()
        else:
            assert_same_detections(model, outputs, batch)


def test_what_cannot_be_exported_is_told(checkpoint, tmp_path, capsys):
    model = Detector.from_checkpoint(checkpoint(), device="cpu").model
    model.roi_heads = torch.nn.Identity()
    with pytest.raises(UserError, match="Identity cannot be exported"):
        BatchDetector(model)
    arguments = ["export", "--weights", str(checkpoint()), "--output", str(tmp_path / "a.onnx")]
    assert main([*arguments[:-1], "model.pth"]) == 1
    assert "error: model.pth: expected a name that ends in .onnx or .pt2" in capsys.readouterr().err
    assert main([*arguments[:-1], str(tmp_path / "none" / "a.onnx")]) == 1
    assert f"a.onnx: there is no folder {tmp_path}/none" in capsys.readouterr().err
    assert main([*arguments, "MODEL.PRECISION", "bf16"]) == 1
    assert "MODEL.PRECISION is bf16" in capsys.readouterr().err
