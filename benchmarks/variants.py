"""The detectors that speed.py compares, with the same weights, and their convolutions and matrix products alone."""

import contextlib
import functools
from typing import NamedTuple

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from detectron2_twin import Detectron2Twin
from detlite.config import load_config
from detlite.errors import UserError
from detlite.inspection.speed import TimedModel, make_batch, now, timed_detector
from detlite.modeling import build_model
from detlite.ops.linear import ONEDNN_LINEAR
from torchvision_twin import TorchvisionTwin

TORCHVISION_STAGES = {
    "preprocess": ["model.transform.forward"],
    "backbone": ["model.backbone.forward"],
    "RPN head": ["model.rpn.head.forward"],
    "proposals": [
        "model.rpn.anchor_generator.forward",
        "model.rpn.box_coder.decode",
        "model.rpn.filter_proposals",
    ],
    "RPN losses": ["model.rpn.assign_targets_to_anchors", "model.rpn.compute_loss"],
    "sampling": ["model.roi_heads.select_training_samples"],
    "pooling": ["model.roi_heads.box_roi_pool.forward"],
    "box head": ["model.roi_heads.box_head.forward", "model.roi_heads.box_predictor.forward"],
    "postprocess": ["model.roi_heads.postprocess_detections", "model.transform.postprocess"],
}
DETECTRON2_STAGES = {
    "preprocess": ["model.preprocess_image"],
    "backbone": ["model.backbone.forward"],
    "RPN head": ["model.proposal_generator.rpn_head.forward"],
    "proposals": [
        "model.proposal_generator.anchor_generator.forward",
        "model.proposal_generator.predict_proposals",
    ],
    "RPN losses": ["model.proposal_generator.label_and_sample_anchors", "model.proposal_generator.losses"],
    "sampling": ["model.roi_heads.label_and_sample_proposals"],
    "pooling": ["model.roi_heads.box_pooler.forward"],
    "box head": ["model.roi_heads.box_head.forward", "model.roi_heads.box_predictor.forward"],
    "postprocess": ["model.roi_heads.box_predictor.inference", "model._postprocess"],
}


def untrained(task):
    """Build a task's detector with the weights that every variant has; return its config and the detector."""
    cfg = load_config(task.config, task.opts, task.imports)
    torch.manual_seed(0)
    return cfg, build_model(cfg)


def detlite(task, precision="fp32"):
    """Build detlite's detector in a precision."""
    opts = ("MODEL.PRECISION", precision) if precision != "fp32" else ()
    return timed_detector(task._replace(opts=(*task.opts, *opts)))


def torchvision(task):
    """Build torchvision's detector."""
    cfg, model = untrained(task)
    return peer(task, cfg, TorchvisionTwin(model), TORCHVISION_STAGES)


def detectron2(task):
    """Build detectron2's detector."""
    cfg, model = untrained(task)
    try:
        twin = Detectron2Twin(model)
    except ModuleNotFoundError as error:
        raise UserError(f"detectron2 is not installed here ({error})") from None
    return peer(task, cfg, twin, DETECTRON2_STAGES)


def peer(task, cfg, twin, stages):
    """Return a :class:`TimedModel` of another library's detector, with the SGD that its training scripts have."""
    trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9, weight_decay=5e-4)
    return TimedModel(task, twin, optimizer, len(cfg.MODEL.CLASSES), stages)


class Call(NamedTuple):
    """A convolution or linear layer that ran.

    Attributes:
        function: conv2d or linear of torch.nn.functional.
        input_shape, weight_shape: of its tensors.
        input_needs_grad, weight_needs_grad: whether a backward pass computes their gradients.
        weight_key: the same for calls with the same weight.
        has_bias: whether it adds a bias.
        rest: the other arguments.
    """

    function: object
    input_shape: tuple
    input_needs_grad: bool
    weight_shape: tuple
    weight_needs_grad: bool
    weight_key: tuple
    has_bias: bool
    rest: list


class Recorder(TorchFunctionMode):
    """Records the convolutions and linear layers that run, as a list of :class:`Call`."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Run a function, and record it if it is one of the two."""
        if function in (F.conv2d, F.linear):
            x, weight, bias, *rest = args
            key = (weight.data_ptr(), tuple(weight.shape), weight.requires_grad)
            shapes = (tuple(x.shape), x.requires_grad, tuple(weight.shape), weight.requires_grad)
            self.calls.append(Call(function, *shapes, key, bias is not None, rest))
        return function(*args, **(kwargs or {}))


class Bare:
    """Runs the detector's convolutions and matrix products alone, on random numbers of the same shapes.

    Args:
        task: the :class:`~detlite.inspection.speed.Task`.
        dtype: of inputs and weights.
        best: whether to use the layouts and kernels that are fastest on a CPU, instead of torch's default ones.
    """

    def __init__(self, task, dtype, best):
        cfg, model = untrained(task)
        self.device = next(model.parameters()).device
        self.training = task.mode == "training"
        self.uses_onednn = best and not self.training and dtype == torch.float32 and self.device.type == "cpu"
        images, targets = make_batch(task, len(cfg.MODEL.CLASSES))
        with Recorder() as recorder:
            if self.training:
                model.train()(images, targets)
            else:
                model.eval()(images)
        del model

        # Calls with the same weight share it, as levels of a pyramid do.
        layout = torch.channels_last if best else torch.contiguous_format
        weights = {}
        self.calls = []
        for call in recorder.calls:
            x = self._random(call.input_shape, dtype, layout)
            x.requires_grad_(self.training and call.input_needs_grad)
            if call.weight_key not in weights:
                weight = self._random(call.weight_shape, dtype, layout)
                weights[call.weight_key] = weight.requires_grad_(self.training and call.weight_needs_grad)
            weight = weights[call.weight_key]
            bias = torch.zeros(len(weight), dtype=dtype, device=self.device) if call.has_bias else None
            self.calls.append((call.function, x, weight, bias, call.rest))

        trained = [weight for weight in weights.values() if weight.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9, fused=best or None) if trained else None

    def _random(self, shape, dtype, layout):
        if len(shape) != 4:
            layout = torch.contiguous_format
        return torch.randn(shape).to(self.device, dtype, memory_format=layout)

    def run(self):
        """Run every call once: {"total": seconds}."""
        begin = now(self.device)
        with contextlib.nullcontext() if self.training else torch.inference_mode():
            for function, x, weight, bias, rest in self.calls:
                if self.uses_onednn and function is F.linear:
                    output = ONEDNN_LINEAR(x, weight, bias, "none", [], "")
                else:
                    output = function(x, weight, bias, *rest)
                if output.requires_grad:
                    output.backward(torch.empty_like(output))
                    x.grad = None
        if self.training:
            self.optimizer.step()
            self.optimizer.zero_grad()
        return {"total": now(self.device) - begin}


VARIANTS = {
    "detlite": detlite,
    "torchvision": torchvision,
    "detectron2": detectron2,
    "bare": functools.partial(Bare, dtype=torch.float32, best=False),
    "bare, best": functools.partial(Bare, dtype=torch.float32, best=True),
    "detlite bf16": functools.partial(detlite, precision="bf16"),
    "bare, best, bf16": functools.partial(Bare, dtype=torch.bfloat16, best=True),
}
