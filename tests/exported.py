"""Exported detectors, and what their files must detect: what the tests of the gate and of a release share."""

import json
import subprocess
import sys
from pathlib import Path

import onnxruntime
import torch
from torchvision.transforms.v2.functional import to_pil_image

from detlite.cli import main
from detlite.data import ShapesDataset
from detlite.prediction.detector import Detector

EXAMPLE = Path(__file__).parents[1] / "examples" / "onnx_without_detlite.py"
RESIZE = {"NAME": "ResizeShortSide", "SIZE": 64, "MAX_SIZE": 80}
# By factors 1, 8/5, 1/2 and (by MAX_SIZE) 4/3, all interpolation weights are exact, so onnxruntime rounds like torch.
EXACTLY_RESIZED = [(1, 64, 64), (3, 40, 45), (1, 128, 128), (3, 30, 60)]
BATCHES = [(1, 64, 64), (3, 64, 64), (1, 50, 97), (3, 50, 97), (1, 81, 33), (3, 81, 33)]
FPN = {
    "MODEL__BACKBONE": {
        "NAME": "FPN",
        "OUT_CHANNELS": 8,
        "EXTRA_LEVEL": False,
        "BOTTOM_UP": {"DEPTH": 11, "WIDTH": 0.0625, "FREEZE_AT": 0, "LEVELS": ["conv4", "conv5"]},
    },
    "MODEL__RPN__ANCHOR_GENERATOR__SIZES": [[16], [32]],
    "MODEL__ROI_HEADS__POOLER": {"NAME": "MultiLevelPooler", "CANONICAL_SIZE": 32},  # objects are on both levels
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
    "cascade and class-agnostic NMS": {
        "MODEL__ROI_HEADS__NAME": "CascadeRoIHeads",
        "MODEL__ROI_HEADS__NMS": {"CLASS_AGNOSTIC": True},
    },
    "proposals": {"MODEL__NAME": "ProposalNetwork"},
}


def images(count, height, width):
    """Return (count, 3, height, width) uint8, all different."""
    dataset = ShapesDataset(image_size=max(height, width), seed=9)
    return torch.stack([dataset[index][0].as_subclass(torch.Tensor)[:, :height, :width] for index in range(count)])


def assert_same_detections(detect, outputs, batch):
    """Compare a graph's outputs with the results of ``detect``, a Detector or its model."""
    boxes, scores, labels, counts = (torch.as_tensor(output) for output in outputs)
    with torch.inference_mode():
        expected = detect(list(batch))
    assert counts.tolist() == [len(image["labels"]) for image in expected] and sum(counts) > 0
    for index, (image, count) in enumerate(zip(expected, counts.tolist(), strict=True)):
        torch.testing.assert_close(scores[index, :count], image["scores"], atol=1e-3, rtol=0)
        torch.testing.assert_close(boxes[index, :count], image["boxes"], atol=1e-3, rtol=0)
        assert torch.equal(labels[index, :count], image["labels"])
        assert not boxes[index, count:].any() and not scores[index, count:].any() and not labels[index, count:].any()


def is_exported(arguments, capsys):
    """Export a detector, and return whether this torch can: an older one is named in one message."""
    if main(["export", *map(str, arguments)]) == 0:
        return True
    assert torch.__version__ < "2.14"
    error = capsys.readouterr().err
    assert f"error: torch {torch.__version__} cannot export this detector: " in error and "Traceback" not in error
    return False


def assert_onnxruntime_detects_the_same(path, weights, shapes):
    """Compare an ONNX file's detections with the detector's, for shapes of batches and in the example."""
    session = onnxruntime.InferenceSession(path)
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["circle", "square", "triangle"]
    detector = Detector.from_checkpoint(weights, device="cpu")
    for shape in shapes:
        batch = images(*shape)
        assert_same_detections(detector, session.run(None, {"images": batch.numpy()}), batch)

    # Boxes are in the file's pixels.
    picture = path.parent / "picture.png"
    to_pil_image(images(1, 40, 45)[0]).save(picture)
    example = [sys.executable, str(EXAMPLE), str(path), str(picture)]
    lines = subprocess.run(example, capture_output=True, text=True, check=True).stdout.splitlines()
    found = detector(picture)
    assert [line.split()[0] for line in lines] == found["names"]
    boxes = torch.tensor([json.loads(line.split(maxsplit=2)[2]) for line in lines])
    torch.testing.assert_close(boxes, found["boxes"], atol=0.1, rtol=0)


def assert_torch_detects_the_same(path, weights, shapes):
    """Compare a torch program's detections with the detector's."""
    extra = {"classes.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra["classes.json"]) == ["circle", "square", "triangle"]
    detector = Detector.from_checkpoint(weights, device="cpu")
    for shape in shapes:
        batch = images(*shape)
        assert_same_detections(detector, program(batch), batch)
