"""What the benchmark compares: each variant is built in a process of its own and run when asked."""

import contextlib
import functools
import resource
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from detlite.cli.runtime import keep_freed_memory
from detlite.config import load_config
from detlite.engine.detectron2_twin import Detectron2Twin
from detlite.errors import UserError
from detlite.modeling import build_model
from detlite.modeling.torchvision_twin import TorchvisionTwin
from detlite.solver import build_optimizer

PRODUCTS = ("backbone", "RPN head", "box head")  # stages that are convolutions and matrix products
STATUS = Path("/proc/self/status")


def serve(connection, task, name):
    """Build a variant, then answer until the connection is closed.

    "run" is answered by the seconds of one run, {stage: seconds} with "total"; "about" by what else is to be told of
    the variant; every question by a UserError if the variant cannot be built.
    """
    torch.set_num_threads(task.threads)
    try:
        variant = VARIANTS[name](task)
    except UserError as error:
        variant = error
    reset_peak_memory()
    with contextlib.suppress(EOFError):
        while True:
            word = connection.recv()
            connection.send(variant if isinstance(variant, UserError) else getattr(variant, word)())


class _Variant:
    """A model and what it is run on.

    Args:
        task: the benchmark's Task.
        model: with torchvision's face.
        optimizer: for training.
        parts: {stage: [(object, name of its method)]}, what the stages' times are taken of.
    """

    def __init__(self, task, model, optimizer, parts):
        self.task = task
        self.model = model.train(task.mode == "training")
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group["lr"] = 0.0  # the weights stay, so every round does the same
        self.images, self.targets = make_batch(task, load(task))
        self.seconds = {}
        for stage, methods in parts.items():
            for owner, method in methods:
                if hasattr(owner, method):
                    setattr(owner, method, self._timed(stage, getattr(owner, method)))

    def _timed(self, stage, function):
        @functools.wraps(function)
        def run(*args, **kwargs):
            begin = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begin
            return result

        return run

    def run(self):
        """One inference or training step: {stage: seconds}."""
        self.seconds = {}
        begin = time.perf_counter()
        self._train() if self.task.mode == "training" else self._detect()
        total = time.perf_counter() - begin
        products = sum(self.seconds.get(stage, 0.0) for stage in PRODUCTS)
        forward = self.seconds.get("forward", total)
        return {**self.seconds, "not convolution or product": forward - products, "total": total}

    def _detect(self):
        with torch.inference_mode():
            return self.model(self.images)

    def _train(self):
        loss = self._timed("forward", lambda: sum(self.model(self.images, self.targets).values()))()
        self._timed("backward", loss.backward)()
        self._timed("optimizer", self.optimizer.step)()
        self.optimizer.zero_grad()

    def about(self):
        """{"peak_memory": bytes, "detections": of the images, or None}."""
        about = {"peak_memory": peak_memory(), "detections": None}
        if self.task.mode == "inference":
            keys = ("boxes", "scores", "labels")
            about["detections"] = [{key: found[key].tolist() for key in keys} for found in self._detect()]
        return about


class _Bare:
    """The detector's convolutions and matrix products alone, each on numbers of the shape that it has there.

    Args:
        task: the benchmark's Task.
        dtype: of inputs and weights.
        best: whether in the layouts and with the kernels that are fastest on a CPU, instead of the usual ones.
    """

    def __init__(self, task, dtype, best):
        cfg = load(task)
        model = initial(cfg).train(task.mode == "training")
        images, targets = make_batch(task, cfg)
        with _Recorder() as recorder:
            model(images, targets) if model.training else model.eval()(images)
        del model
        layout = torch.channels_last if best else torch.contiguous_format
        self.training = task.mode == "training"
        self.through_onednn = best and not self.training and dtype == torch.float32
        weights, self.calls = {}, []
        for function, x, (key, weight, trained), bias, rest in recorder.calls:
            x, weight = (
                torch.randn(shape).to(dtype, memory_format=layout if len(shape) == 4 else torch.contiguous_format)
                for shape in (x[0], weight)
            )
            if self.training:
                x.requires_grad_(recorder.calls[len(self.calls)][1][1])
                weight.requires_grad_(trained)
            weights.setdefault(key, weight)
            bias = torch.zeros(len(weight), dtype=dtype) if bias else None
            self.calls.append((function, x, weights[key], bias, rest))
        trained = [weight for weight in weights.values() if weight.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9, fused=best or None) if trained else None

    def run(self):
        """Every one once: {"total": seconds}."""
        begin = time.perf_counter()
        with contextlib.nullcontext() if self.training else torch.inference_mode():
            for function, x, weight, bias, rest in self.calls:
                if self.through_onednn and function is F.linear:
                    output = function(x.to_mkldnn(), weight, bias).to_dense()
                else:
                    output = function(x, weight, bias, *rest)
                if output.requires_grad:
                    output.backward(torch.empty_like(output))
                    x.grad = None
        if self.training:
            self.optimizer.step()
            self.optimizer.zero_grad()
        return {"total": time.perf_counter() - begin}

    def about(self):
        """As a detector's."""
        return {"peak_memory": peak_memory(), "detections": None}


class _Recorder(TorchFunctionMode):
    """Notes the convolutions and linear layers that run: (function, input, weight, has bias, other arguments)."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Run a function, and note it if it is one of the two."""
        if function in (F.conv2d, F.linear):
            x, weight, bias, *rest = args
            of_weight = (weight.data_ptr(), tuple(weight.shape), weight.requires_grad)
            self.calls.append((function, (tuple(x.shape), x.requires_grad), of_weight, bias is not None, rest))
        return function(*args, **(kwargs or {}))


def _detlite(task, precision="fp32"):
    keep_freed_memory()  # as in every command
    cfg = load(task, ["MODEL.PRECISION", precision] if precision != "fp32" else [])
    model = initial(cfg)
    if task.mode == "inference":
        model.convert_weights()
    heads, rpn = getattr(model, "roi_heads", None), getattr(model, "rpn", None)
    parts = {
        "preprocess": [(model, "preprocess")],
        "backbone": [(model.backbone, "forward")],
        "RPN head": [(getattr(rpn, "head", None), "forward")],
        "proposals": [(rpn, "propose")],
        "RPN losses": [(rpn, "losses")],
        "sampling": [(heads, "sample")],
        "pooling": [(getattr(heads, "pooler", None), "forward")],
        "box head": [(getattr(heads, name, None), "forward") for name in ("box_head", "predictor")],
        "postprocess": [(heads, "detect")],
    }
    return _Variant(task, model, build_optimizer(cfg, model), parts)


def _torchvision(task):
    twin = TorchvisionTwin(initial(load(task)))
    rpn, heads = twin.model.rpn, twin.model.roi_heads
    parts = {
        "preprocess": [(twin.model.transform, "forward")],
        "backbone": [(twin.model.backbone, "forward")],
        "RPN head": [(rpn.head, "forward")],
        "proposals": [(rpn.anchor_generator, "forward"), (rpn.box_coder, "decode"), (rpn, "filter_proposals")],
        "RPN losses": [(rpn, "assign_targets_to_anchors"), (rpn, "compute_loss")],
        "sampling": [(heads, "select_training_samples")],
        "pooling": [(heads.box_roi_pool, "forward")],
        "box head": [(heads.box_head, "forward"), (heads.box_predictor, "forward")],
        "postprocess": [(heads, "postprocess_detections"), (twin.model.transform, "postprocess")],
    }
    return _peer(task, twin, parts)


def _detectron2(task):
    try:
        twin = Detectron2Twin(initial(load(task)))
    except ModuleNotFoundError as error:
        raise UserError(f"detectron2: it is not installed here ({error})") from None
    rpn, heads = twin.model.proposal_generator, twin.model.roi_heads
    parts = {
        "preprocess": [(twin.model, "preprocess_image")],
        "backbone": [(twin.model.backbone, "forward")],
        "RPN head": [(rpn.rpn_head, "forward")],
        "proposals": [(rpn.anchor_generator, "forward"), (rpn, "predict_proposals")],
        "RPN losses": [(rpn, "label_and_sample_anchors"), (rpn, "losses")],
        "sampling": [(heads, "label_and_sample_proposals")],
        "pooling": [(heads.box_pooler, "forward")],
        "box head": [(heads.box_head, "forward"), (heads.box_predictor, "forward")],
        "postprocess": [(heads.box_predictor, "inference"), (twin.model, "_postprocess")],
    }
    return _peer(task, twin, parts)


def _peer(task, twin, parts):
    """Another's detector with the optimizer that its own training scripts have: SGD as torch has it by default."""
    trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    return _Variant(task, twin, torch.optim.SGD(trained, lr=0.0, momentum=0.9, weight_decay=5e-4), parts)


VARIANTS = {
    "detlite": _detlite,
    "torchvision": _torchvision,
    "detectron2": _detectron2,
    "bare": functools.partial(_Bare, dtype=torch.float32, best=False),
    "bare, best": functools.partial(_Bare, dtype=torch.float32, best=True),
    "detlite bf16": functools.partial(_detlite, precision="bf16"),
    "bare, best, bf16": functools.partial(_Bare, dtype=torch.bfloat16, best=True),
}


def load(task, opts=()):
    """The task's config, on the CPU, with further changes."""
    return load_config(task.config, [*task.opts, "MODEL.DEVICE", "cpu", *opts], task.imports)


def initial(cfg):
    """The config's detector with the weights that every variant has."""
    torch.manual_seed(0)
    return build_model(cfg)


def make_batch(task, cfg):
    """Random images and targets of a task: uint8 (3, H, W) each, and boxes and labels."""
    generator = torch.Generator().manual_seed(0)
    height, width = task.size
    images, targets = [], []
    for seed in range(task.batch):
        images.append(torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator))
        corners, sizes = torch.rand(2, task.objects, 2, generator=generator)
        sizes = (0.05 + 0.45 * sizes) * torch.tensor([width, height])
        corners = corners * (torch.tensor([width, height]) - sizes)
        labels = torch.randint(len(cfg.MODEL.CLASSES), (task.objects,), generator=generator) + 1
        targets.append({"boxes": torch.cat([corners, corners + sizes], dim=1), "labels": labels, "seed": seed})
    return images, targets


def reset_peak_memory():
    """Forget this process's peak so far, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory():
    """The most memory that this process has held, in bytes."""
    if STATUS.exists():
        (line,) = (line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
