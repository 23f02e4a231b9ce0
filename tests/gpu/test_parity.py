"""A CPU and a CUDA GPU agree on losses, gradients and detections, given the same proposals.

The tolerances leave room above what one NVIDIA H200 showed at full width, because a narrow net averages over fewer
numbers. Gradients differ most: where two inputs of max-pooling are equal up to rounding, the other one receives it.
"""

import copy
from typing import NamedTuple

import pytest
import torch

from detlite.inspection.speed import Task, make_batch
from speed import difference


class Numbers(NamedTuple):
    """How a GPU computes, and how far its results may be from the CPU's.

    Attributes:
        conv_tf32, matmul_tf32: whether convolutions and matrix products may round to TF32.
        precision: MODEL.PRECISION.
        loss, gradient: the largest relative differences, of gradients in the norm of each parameter's.
        score, box: the largest differences of detections, boxes in pixels.
    """

    conv_tf32: bool
    matmul_tf32: bool
    precision: str
    loss: float
    gradient: float
    score: float
    box: float


MODES = {
    "strict fp32": Numbers(False, False, "fp32", loss=1e-5, gradient=1e-2, score=1e-4, box=0.02),
    "torch's default": Numbers(True, False, "fp32", loss=3e-3, gradient=2e-1, score=3e-3, box=0.5),
    "TF32 everywhere": Numbers(True, True, "fp32", loss=3e-3, gradient=2e-1, score=3e-3, box=0.5),
    "bf16": Numbers(True, False, "bf16", loss=2e-2, gradient=5e-1, score=3e-2, box=2.0),
}
ON_A_CPU = {"loss": 1e-6, "gradient": 1e-6, "score": 1e-6, "box": 1e-4}  # a CPU against itself, in float32
NO_SUPPRESSION = {  # every proposal is detected as every class, so no rounding decides which boxes there are
    "MODEL__ROI_HEADS__SCORE_THRESHOLD": 0.0,
    "MODEL__ROI_HEADS__NMS__IOU": 1.0,
    "MODEL__ROI_HEADS__DETECTIONS_PER_IMAGE": 1000,
}


@pytest.fixture
def reference(build, tiny_opts):
    """A narrow VGG detector on the CPU without dropout, whose masks would differ between devices."""
    changes = {
        **NO_SUPPRESSION,
        "MODEL__RPN__MIN_SIZE": 1,
        "MODEL__CLASSES": ["cat", "dog"],
        "MODEL__ROI_HEADS__BOX_HEAD__DROPOUT": 0.0,
    }
    _, model = build(tiny_opts(MODEL__RPN__HEAD__INIT_STD=0.1, MODEL__ROI_HEADS__CLASS_INIT_STD=0.1, **changes))
    return model.cpu()


@pytest.fixture
def batch():
    """Two images and their targets."""
    return make_batch(Task(size=(96, 128), batch=2, objects=4), num_classes=2)


def use(numbers, model):
    """Compute as a mode says."""
    torch.backends.cudnn.allow_tf32 = numbers.conv_tf32
    torch.backends.cuda.matmul.allow_tf32 = numbers.matmul_tf32
    model.precision = numbers.precision


def tolerance(numbers, name, device):
    """Return a mode's tolerance."""
    if device == "cpu" and numbers.precision == "fp32":
        return ON_A_CPU[name]
    return getattr(numbers, name)


def record_proposals(model):
    """Return the list that will contain what the RPN proposes."""
    recorded = []
    propose = model.rpn.propose

    def run(*args):
        recorded.append(propose(*args))
        return recorded[-1]

    model.rpn.propose = run
    return recorded


def give_proposals(model, proposals, device):
    """Make the RPN propose the recorded regions."""
    moved = [tuple(tensor.to(device) for tensor in image) for image in proposals]
    model.rpn.propose = lambda *args: moved


def losses_and_gradients(model, batch):
    """Return {name: float} of the losses, and {name: gradient on the CPU} of the parameters."""
    losses = model.train()(*batch)
    sum(losses.values()).backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradients[name] = parameter.grad.cpu().float()
    return {name: loss.item() for name, loss in losses.items()}, gradients


def detect(model, images):
    """Return detections as :func:`speed.difference` compares them."""
    with torch.inference_mode():
        detections = model.eval()(images)
    return [{key: values.tolist() for key, values in found.items()} for found in detections]


@pytest.mark.parametrize("mode", MODES)
def test_losses_and_gradients_are_the_cpus_given_its_proposals(reference, batch, device, mode, strict_float32):
    numbers = MODES[mode]
    model = copy.deepcopy(reference).to(device)
    proposals = record_proposals(reference)
    expected_losses, expected_gradients = losses_and_gradients(reference, batch)

    use(numbers, model)
    give_proposals(model, proposals[0], device)
    losses, gradients = losses_and_gradients(model, batch)
    assert losses == pytest.approx(expected_losses, rel=tolerance(numbers, "loss", device))
    assert gradients.keys() == expected_gradients.keys()
    for name, expected in expected_gradients.items():
        apart = (gradients[name] - expected).norm() / expected.norm().clamp(min=1e-6)
        assert apart <= tolerance(numbers, "gradient", device), name


@pytest.mark.parametrize("mode", MODES)
def test_detections_are_the_cpus_given_its_proposals(reference, batch, device, mode, strict_float32):
    numbers = MODES[mode]
    images, _ = batch
    model = copy.deepcopy(reference).to(device)
    proposals = record_proposals(reference)
    expected = detect(reference, images)

    use(numbers, model)
    give_proposals(model, proposals[0], device)
    apart = difference(detect(model, images), expected)
    assert apart["detections"] == apart["reference_detections"] > 20
    assert apart["score"] <= tolerance(numbers, "score", device)
    assert apart["box"] <= tolerance(numbers, "box", device)


def test_detections_with_own_proposals_are_the_cpus(reference, batch, device, strict_float32):
    images, _ = batch
    apart = difference(detect(copy.deepcopy(reference).to(device), images), detect(reference, images))
    numbers = MODES["strict fp32"]
    assert apart["detections"] == apart["reference_detections"] > 20
    assert apart["score"] <= tolerance(numbers, "score", device)
    assert apart["box"] <= tolerance(numbers, "box", device)
