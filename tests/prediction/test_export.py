"""Exported graphs give the detector's detections, for batches and sizes other than the example's."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from torchvision.transforms.v2.functional import to_pil_image

from detlite.cli import main
from detlite.data import ResizeShortSide, ShapesDataset
from detlite.errors import UserError
from detlite.modeling.backbone.vgg import VGG
from detlite.prediction.detector import Detector
from detlite.prediction.export_graph import BatchDetector, resize

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_without_detlite.py"
RESIZE = {"NAME": "ResizeShortSide", "SIZE": 64, "MAX_SIZE": 80}
# By factors 1, 8/5, 1/2 and (by MAX_SIZE) 4/3, all interpolation weights are exact, so onnxruntime rounds like torch.
EXACTLY_RESIZED = [(1, 64, 64), (3, 40, 45), (1, 128, 128), (3, 30, 60)]
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


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("shape", BATCHES[1:4])
def test_one_graph_for_all_images_detects_what_the_detector_does_one_by_one(checkpoint, name, shape):
    model = Detector.from_checkpoint(checkpoint(**DETECTORS[name]), device="cpu").model
    batch = images(*shape)
    with torch.inference_mode():
        assert_same_detections(model, BatchDetector(model)(batch), batch)


def is_exported(arguments, capsys):
    """Export a detector, and return whether this torch can: an older one is named in one message."""
    if main(["export", *map(str, arguments)]) == 0:
        return True
    assert torch.__version__ < "2.14"
    error = capsys.readouterr().err
    assert f"error: torch {torch.__version__} cannot export this detector: " in error and "Traceback" not in error
    return False


@pytest.mark.parametrize("name", DETECTORS)
def test_onnxruntime_detects_what_the_detector_does_at_all_batches_and_sizes(checkpoint, tmp_path, name, capsys):
    is_resized = name in ("classic", "proposals")
    path = checkpoint(**DETECTORS[name], TRANSFORMS__TEST=[RESIZE] if is_resized else [])
    if not is_exported(["--weights", path, "--output", tmp_path / "model.onnx"], capsys):
        return
    assert "boxes, scores, labels, counts" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["circle", "square", "triangle"]
    detector = Detector.from_checkpoint(path, device="cpu")
    for shape in EXACTLY_RESIZED if is_resized else BATCHES:
        batch = images(*shape)
        assert_same_detections(detector, session.run(None, {"images": batch.numpy()}), batch)

    # Boxes are in the file's pixels.
    picture = tmp_path / "picture.png"
    to_pil_image(images(1, 40, 45)[0]).save(picture)
    example = [sys.executable, str(EXAMPLE), str(tmp_path / "model.onnx"), str(picture)]
    lines = subprocess.run(example, capture_output=True, text=True, check=True).stdout.splitlines()
    found = detector(picture)
    assert [line.split()[0] for line in lines] == found["names"]
    boxes = torch.tensor([json.loads(line.split(maxsplit=2)[2]) for line in lines])
    torch.testing.assert_close(boxes, found["boxes"], atol=0.1, rtol=0)


def test_a_torch_program_resizes_and_detects_what_the_detector_does(checkpoint, tmp_path, capsys):
    path = checkpoint(TRANSFORMS__TEST=[RESIZE])
    if not is_exported(["--weights", path, "--output", tmp_path / "model.pt2"], capsys):
        return
    extra = {"classes.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    assert json.loads(extra["classes.json"]) == ["circle", "square", "triangle"]
    detector = Detector.from_checkpoint(path, device="cpu")
    for shape in [*BATCHES, *EXACTLY_RESIZED]:
        batch = images(*shape)
        assert_same_detections(detector, program(batch), batch)


@pytest.mark.parametrize("size", [(40, 41), (40, 43), (41, 40), (30, 60), (99, 20), (60, 60), (150, 151)])
def test_the_graph_resizes_to_the_bit_and_rounds_halves_of_a_pixel_to_even(size):
    image = images(1, *size)
    expected, _ = ResizeShortSide(size=60, max_size=90)(image[0], {})
    resized = resize(image, size=60, max_size=90, min_side=2)[0]
    # On some CPUs, torchvision before that of torch 2.10 computes in floats, which may round a pixel differently.
    tolerance = 0 if torch.__version__ >= "2.10" else 1
    torch.testing.assert_close(resized, expected, atol=tolerance, rtol=0)


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


class CalledError(Exception):
    """A method that a test replaced was called."""


def raise_called(*args, **kwargs):
    raise CalledError


STAGES = {
    "model": lambda model: model,
    "rpn": lambda model: model.rpn,
    "heads": lambda model: model.roi_heads,
    "stage": lambda model: model.roi_heads.stages[1],
}


@pytest.mark.parametrize(
    ("stage", "keys"),
    [
        ("model", {}),
        ("model", {"MODEL__NAME": "ProposalNetwork"}),
        ("rpn", {}),
        ("heads", {}),
        ("heads", {"MODEL__ROI_HEADS__NAME": "CascadeRoIHeads"}),
        ("stage", {"MODEL__ROI_HEADS__NAME": "CascadeRoIHeads"}),
    ],
)
@torch.inference_mode()
def test_an_overridden_method_is_in_the_graph_or_named_or_not_used_to_detect(checkpoint, stage, keys):
    model, batch = Detector.from_checkpoint(checkpoint(**keys), device="cpu").model, images(1, 64, 64)
    graph = BatchDetector(model)
    part = STAGES[stage](model)
    original = type(part)
    names = {*dir(original)} - {*dir(torch.nn.Module)} | {"forward", "__call__"}
    outcomes = {}
    for name in sorted(name for name in names if inspect.isroutine(getattr(original, name))):
        part.__class__ = type("Mine", (original,), {name: raise_called})
        try:
            BatchDetector(model)
        except UserError as error:
            assert f"Mine cannot be exported: it changes {name} of {original.__name__}" in str(error)
            outcomes[name] = "refused"
            continue
        # What is not refused has the same effect in the graph and in the detector: it is called, or it is not.
        in_graph = STAGES[stage](graph.model)
        in_graph.__class__ = part.__class__
        is_called = []
        for detect in (lambda: graph(batch), lambda: model(list(batch))):
            try:
                detect()
                is_called.append(False)
            except CalledError:
                is_called.append(True)
        assert is_called in ([True, True], [False, False]), name
        outcomes[name] = "called" if is_called[0] else "unused"
        in_graph.__class__ = original
    assert outcomes["forward"] == "refused" and "unused" in outcomes.values()


def test_a_method_of_one_object_and_a_hook_are_named(checkpoint):
    model = Detector.from_checkpoint(checkpoint(), device="cpu").model
    model.rpn.propose = model.rpn.propose
    with pytest.raises(UserError, match="RPN cannot be exported: it changes propose of RPN"):
        BatchDetector(model)
    del model.rpn.propose
    handle = model.roi_heads.register_forward_hook(lambda *args: None)
    with pytest.raises(UserError, match="StandardRoIHeads cannot be exported: it changes forward hook"):
        BatchDetector(model)
    handle.remove()
    BatchDetector(model)


def test_transforms_that_the_file_cannot_state_are_named(checkpoint, tmp_path, capsys):
    plugin = tmp_path / "my_gray.py"
    plugin.write_text(
        "from torchvision.transforms import v2\n"
        "from detlite.registry import TRANSFORMS\n"
        "@TRANSFORMS.register()\n"
        "class MyGray(v2.Grayscale):\n"
        '    """Gray in three channels."""\n'
        "    def __init__(self):\n"
        "        super().__init__(3)\n"
    )
    path = checkpoint(IMPORTS=[str(plugin)], TRANSFORMS__TEST=[{"NAME": "MyGray"}])
    arguments = ["export", "--weights", str(path), "--output", str(tmp_path / "a.pt2"), "--import", str(plugin)]
    assert main(arguments) == 1
    assert "error: TRANSFORMS.TEST has MyGray; an exported file can contain one Resize" in capsys.readouterr().err
    assert not (tmp_path / "a.pt2").exists()


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


def test_a_part_that_branches_on_the_size_of_resized_images_is_told(checkpoint, tmp_path, monkeypatch, capsys):
    def odd_or_even(self, images):
        return original(self, images + 1 if images.shape[2] % 3 else images)

    original = VGG.forward
    monkeypatch.setattr(VGG, "forward", odd_or_even)
    arguments = ["export", "--weights", str(checkpoint(TRANSFORMS__TEST=[RESIZE])), "--output"]
    assert main([*arguments, str(tmp_path / "model.pt2")]) == 1
    error = capsys.readouterr().err
    assert f"error: torch {torch.__version__} cannot export this detector: Could not guard on data-dep" in error
    assert "Traceback" not in error and not (tmp_path / "model.pt2").exists()


@pytest.mark.parametrize("stage", ["RPN", "ROI_HEADS"])
def test_a_soft_nms_is_refused_by_name(checkpoint, tmp_path, stage, capsys):
    path = checkpoint(**{f"MODEL__{stage}__NMS__NAME": "LinearSoftNMS"})
    assert main(["export", "--weights", str(path), "--output", str(tmp_path / "model.pt2")]) == 1
    error = capsys.readouterr().err
    assert "LinearSoftNMS cannot be exported" in error and "GreedyNMS" in error
