"""MODEL.PRECISION: convolutions and linear layers in another precision, boxes, scores and losses in float32."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from detlite.errors import UserError
from detlite.modeling import precision as precision_module
from detlite.modeling.precision import (
    autocast,
    backward_context,
    has_cpu_instructions,
    log_precision,
    resolve_precision,
)
from torchvision_twin import TorchvisionTwin

VARIANTS = {
    "RoIPool": {},
    "RoIAlign": {"MODEL.ROI_HEADS.POOLER.NAME": "RoIAlign"},
    "cascade": {"MODEL.ROI_HEADS.NAME": "CascadeRoIHeads"},
    "GIoU": {"MODEL.RPN.BOX_LOSS.NAME": "GIoULoss", "MODEL.ROI_HEADS.BOX_LOSS.NAME": "GIoULoss"},
}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_detections_are_float32_and_close_to_those_of_full_precision(
    narrow_model, make_target, variant, precision
):
    images = [torch.rand(3, 128, 160), torch.rand(3, 160, 128)]
    targets = [{**make_target([[20, 30, 90, 100]], [1]), "seed": 1}, {**make_target([[5, 5, 70, 60]], [2]), "seed": 2}]
    losses = {}
    for name in ("fp32", precision):
        torch.manual_seed(3)
        model = narrow_model(VARIANTS[variant] | {"MODEL.PRECISION": name, "MODEL.ROI_HEADS.SCORE_THRESHOLD": 0})
        # One proposal in training: with more, rounding could change which regions are sampled.
        model.rpn.post_nms_top_n_train, model.rpn.post_nms_top_n_test = 1, 20
        losses[name] = model(images, targets)
        sum(losses[name].values()).backward()
    for key, loss in losses[precision].items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(losses["fp32"][key].item(), rel=0.05, abs=0.01)
        assert loss.item() != losses["fp32"][key].item()
    for parameter in model.parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all()
    with torch.inference_mode():
        detections = model.eval()(images)
    for detection in detections:
        assert detection["boxes"].dtype == detection["scores"].dtype == torch.float32
        assert len(detection["boxes"]) and detection["boxes"].isfinite().all() and detection["scores"].isfinite().all()


@torch.inference_mode()
def test_torchvisions_networks_are_rounded_as_ours_and_its_boxes_are_not(narrow_model):
    theirs = TorchvisionTwin(narrow_model({"MODEL.PRECISION": "bf16"})).eval()
    images = [torch.rand(3, 96, 128)]
    features = theirs.model.backbone(images[0][None])
    assert features.dtype == torch.float32 and torch.equal(features, features.bfloat16().float())
    boxes = theirs(images)[0]["boxes"]
    assert len(boxes) and not torch.equal(boxes, boxes.bfloat16().float())


def test_torchvisions_detector_is_compared_in_fp32_and_bf16(narrow_model):
    with pytest.raises(UserError, match="MODEL.PRECISION: .* got fp16"):
        TorchvisionTwin(narrow_model({"MODEL.PRECISION": "fp16"}))


@pytest.mark.parametrize("norm", ["none", "BatchNorm"])
def test_weights_held_in_bf16_detect_the_same_to_the_bit(narrow_model, norm):
    model = narrow_model({"MODEL.PRECISION": "bf16", "MODEL.BACKBONE.NORM": norm}).eval()
    images = [torch.rand(3, 96, 128)]
    with torch.inference_mode():
        before = model(images)[0]
        model.convert_weights()
        after = model(images)[0]
    assert model.roi_heads.box_head.fc6.weight.dtype == torch.bfloat16
    assert len(before["boxes"]) > 0
    for name, values in before.items():
        assert torch.equal(values, after[name])


CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


@pytest.fixture
def machine(monkeypatch):
    """A function that sets whether the CPU has 16-bit instructions, and the GPU's compute capability."""

    def pretend(cpu=False, capability=(8, 0)):
        monkeypatch.setattr(precision_module, "has_cpu_instructions", lambda name: cpu)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    return pretend


@pytest.mark.parametrize(
    ("setting", "device", "machine_has", "name", "reason"),
    [
        ("auto", CUDA, {"capability": (9, 0)}, "bf16", "the GPU has compute capability 9.0"),
        ("auto", CUDA, {"capability": (8, 0)}, "bf16", "the GPU has compute capability 8.0"),
        ("auto", CUDA, {"capability": (7, 5), "cpu": True}, "fp32", "compute capability 7.5; bf16 needs 8.0"),
        ("auto", CPU, {"cpu": True}, "bf16", "this CPU has instructions for bf16"),
        ("auto", CPU, {"cpu": False}, "fp32", "this CPU has no instructions for bf16 (avx512_bf16, amx_bf16)"),
        ("auto", MPS, {"cpu": True}, "fp32", "not been tried on mps"),
        ("tf32", CUDA, {}, "tf32", "set by MODEL.PRECISION"),
        ("tf32", CPU, {"cpu": True}, "fp32", "CUDA only"),
        ("fp32", CPU, {"cpu": True}, "fp32", "set by MODEL.PRECISION"),
        ("fp32", CUDA, {}, "fp32", "convolutions in TF32 by default, linear layers in fp32"),
        ("bf16", CPU, {"cpu": True}, "bf16", "set by MODEL.PRECISION"),
        ("fp16", CUDA, {"cpu": False}, "fp16", "set by MODEL.PRECISION"),
    ],
)
def test_a_setting_gives_a_precision_for_the_device_with_the_reason(
    machine, setting, device, machine_has, name, reason
):
    machine(**machine_has)
    precision = resolve_precision(setting, device)
    assert precision.name == name and not precision.is_slow
    assert reason in str(precision)


@pytest.mark.parametrize("setting", ["bf16", "fp16"])
def test_16_bits_without_instructions_for_them_are_used_with_a_warning(machine, narrow_model, caplog, setting):
    machine(cpu=False)
    model = narrow_model({"MODEL.PRECISION": setting})
    assert model.precision == setting
    log_precision(model)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "slower than fp32" in record.message


def test_auto_computes_in_what_it_resolves_to(machine, narrow_model):
    image = torch.rand(3, 96, 128)
    found = {}
    for name, cpu in {"bf16": True, "fp32": False}.items():
        machine(cpu=cpu)
        for setting in (name, "auto"):
            torch.manual_seed(0)
            model = narrow_model({"MODEL.PRECISION": setting}).eval()
            with torch.inference_mode():
                found[name, setting] = model([image])[0]["boxes"]
        assert model.precision == name
        assert torch.equal(found[name, "auto"], found[name, name])
    assert not torch.equal(found["bf16", "auto"], found["fp32", "auto"])


def test_instructions_are_asked_of_the_operating_system(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx512f avx512_fp16\n")
    monkeypatch.setattr(precision_module, "Path", lambda path: tmp_path / path.rpartition("/")[2])
    assert not has_cpu_instructions.__wrapped__("bf16")
    assert has_cpu_instructions.__wrapped__("fp16")
    (tmp_path / "cpuinfo").unlink()
    assert not has_cpu_instructions.__wrapped__("fp16")


@pytest.fixture
def tf32_settings():
    """A function that returns whether TF32 is on in matrix products and in convolutions. Both are off at first."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn  # monkeypatch cannot restore their attributes
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield lambda: [backend.allow_tf32 for backend in backends]
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value


def test_tf32_is_on_while_the_model_computes_and_what_it_was_before_afterwards(tf32_settings):
    model = torch.nn.Linear(2, 2)
    model.precision = "tf32"
    for context in (lambda: autocast("tf32", CUDA), lambda: backward_context(model)):
        with pytest.raises(KeyError), context():
            assert tf32_settings() == [True, True]
            raise KeyError
        assert tf32_settings() == [False, False]
    model.precision = "bf16"
    with autocast("fp32", CUDA), backward_context(model):
        assert tf32_settings() == [False, False]


def test_a_thread_does_not_switch_tf32_off_while_another_computes(tf32_settings):
    def compute(seconds):
        with autocast("tf32", CUDA):
            time.sleep(seconds)
            return tf32_settings()

    with ThreadPoolExecutor(4) as threads:
        assert all(settings == [True, True] for settings in threads.map(compute, [0.02, 0.001, 0.02, 0.001]))
    assert tf32_settings() == [False, False]
