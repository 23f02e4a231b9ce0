"""Exported graphs give the detector's detections, for batches and sizes other than the example's."""

import inspect
import re
import shutil

import onnx
import onnxruntime
import pytest
import torch
from exported import (
    BATCHES,
    DETECTORS,
    EXACTLY_RESIZED,
    RESIZE,
    assert_onnxruntime_detects_the_same,
    assert_same_detections,
    assert_torch_detects_the_same,
    images,
    is_exported,
)
from onnx import TensorProto

from detlite.cli import main
from detlite.data import ResizeShortSide
from detlite.engine import int8
from detlite.errors import UserError
from detlite.modeling.backbone.vgg import VGG
from detlite.prediction.detector import Detector
from detlite.prediction.export_graph import EXPRESSED, REPLACEABLE, BatchDetector, resize


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("shape", BATCHES[1:4])
def test_one_graph_for_all_images_detects_what_the_detector_does_one_by_one(checkpoint, name, shape):
    model = Detector.from_checkpoint(checkpoint(**DETECTORS[name]), device="cpu").model
    batch = images(*shape)
    with torch.inference_mode():
        assert_same_detections(model, BatchDetector(model)(batch), batch)


def test_onnxruntime_resizes_and_detects_what_the_detector_does(checkpoint, tmp_path, capsys):
    path = checkpoint(TRANSFORMS__TEST=[RESIZE])
    if is_exported(["--weights", path, "--output", tmp_path / "model.onnx"], capsys):
        assert_onnxruntime_detects_the_same(tmp_path / "model.onnx", path, EXACTLY_RESIZED)
        assert "boxes, scores, labels, counts" in capsys.readouterr().out


def test_a_torch_program_resizes_and_detects_what_the_detector_does(checkpoint, tmp_path, capsys):
    path = checkpoint(MODEL__NAME="ProposalNetwork", TRANSFORMS__TEST=[RESIZE])
    if is_exported(["--weights", path, "--output", tmp_path / "model.pt2"], capsys):
        assert_torch_detects_the_same(tmp_path / "model.pt2", path, [*BATCHES, *EXACTLY_RESIZED])


def test_the_float_file_of_a_pyramid_detects_the_same_and_int8_nearly(checkpoint, tmp_path, monkeypatch, capsys):
    def keep_source(source, target, images):
        shutil.copy(source, tmp_path / "float.onnx")
        quantize(source, target, images)

    quantize = int8.quantize
    monkeypatch.setattr(int8, "quantize", keep_source)
    weights, path = checkpoint(**DETECTORS["FPN"], MODEL__ROI_HEADS__CLASS_INIT_STD=0.1), tmp_path / "int8.onnx"
    arguments = ["--weights", str(weights), "--int8", "--calibration-images", "2", "--output"]
    assert main(["export", *arguments, str(tmp_path / "int8.pt2")]) == 1
    assert "int8.pt2: expected a name that ends in .onnx\n" in capsys.readouterr().err
    if not is_exported([*arguments, path], capsys):
        return
    printed = capsys.readouterr().out
    before, after, loss = map(float, re.search(r"bbox/AP  .* float (\S+) .* int8 (\S+) .* (\S+)", printed).groups())
    assert after - before == pytest.approx(loss, abs=1e-4)
    assert f"wrote {path}, in 8-bit integers, after 2 training images" in printed
    assert not (tmp_path / "evaluation.json").exists()  # the test's results are in a temporary folder
    assert_onnxruntime_detects_the_same(tmp_path / "float.onnx", weights, BATCHES)

    # VGG-11's eight convolutions, the pyramid's four, the RPN's first and fc6 and fc7 have 8-bit weights; the four
    # output layers have not.
    model = onnx.load(path)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    quantized = [name for name, kind in kinds.items() if kind == TensorProto.INT8 and name.endswith("weight_quantized")]
    outputs = [name for name in kinds if name.endswith(("logits.weight", "deltas.weight"))]
    assert len(quantized) == 15 and [kinds[name] for name in outputs] == [TensorProto.FLOAT] * 4

    # onnxruntime computes them in integers, too; the RPN's runs once per level.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(path, options)
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert operators.count("QLinearConv") + operators.count("QGemm") == 16

    batch = list(images(2, 64, 64))
    found, expected = (Detector.from_onnx(source, device="cpu")(batch) for source in (path, weights))
    for ours, theirs in zip(found, expected, strict=True):
        assert abs(ours["scores"][0] - theirs["scores"][0]) < 0.05


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


def test_attributes_that_a_subclass_may_replace_exist():
    for name in REPLACEABLE:
        assert any(hasattr(stage, name) for stage in EXPRESSED), name


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
