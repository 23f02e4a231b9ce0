"""Check that a training can run: weights, model, precision, anchors, first steps, memory and disk space.

Each check returns (result, text to report), and raises a UserError with the remedy if a training would fail.
"""

import os
import shutil
import statistics
from types import SimpleNamespace

import torch
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from detlite.checkpoint import agree_on_pixels, load_weights, read_weights
from detlite.config import override
from detlite.engine.steps import plan_steps
from detlite.engine.train import build_trainer
from detlite.errors import UserError
from detlite.files import user_path
from detlite.memory import peak_memory
from detlite.modeling import build_model
from detlite.modeling.precision import resolve_precision
from detlite.preparation.anchor_recall import describe_recall, judge_training

STEPS, LONG = 5, 10  # steps to train; with more seconds in all, two are enough


def check_model(cfg):
    """Build the detector and load MODEL.WEIGHTS, if any; the result is the model."""
    weights = None
    if cfg.MODEL.WEIGHTS:
        weights = read_weights(cfg.MODEL.WEIGHTS)
        cfg = agree_on_pixels(cfg, weights)
    torch.manual_seed(cfg.SEED)
    model = build_model(cfg)

    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    text = f"{cfg.MODEL.NAME}, {total:,} parameters, {trained:,} of them trained, on {next(model.parameters()).device}"

    # Frozen layers need weights: training would never change their random numbers.
    if weights:
        report = load_weights(model, weights, min_match=cfg.MODEL.MIN_WEIGHTS_MATCH)
        loaded = sum(report.loaded.values())
        text += f"; {loaded:,} loaded from {weights.source}, {weights.layout.title}: {report.matched:.1%} of the "
        text += "parameters that such weights should provide"
    elif trained < total:
        remedy = "set MODEL.WEIGHTS, or MODEL.BACKBONE.FREEZE_AT 0 and MODEL.FREEZE []"
        raise UserError(f"{text}; MODEL.WEIGHTS is empty, so the frozen layers would stay random: {remedy}")
    return model, text


def check_precision(model):
    """Check that the device is not faster in fp32 than in MODEL.PRECISION."""
    precision = resolve_precision(model.precision_setting, next(model.parameters()).device)
    if precision.is_slow:
        raise UserError(str(precision))
    return None, str(precision)


def check_anchors(cfg, datasets):
    """Judge the anchors: an object without an anchor of similar shape and place is hard to learn."""
    rows, remedy = judge_training(cfg, datasets) or ([], "")
    if not rows:
        raise UserError("not judged: MODEL.RPN has no anchors, a data set no coco(), or a transform may change sizes")
    if remedy:
        raise UserError(f"{describe_recall(rows)}; {remedy}")
    return None, describe_recall(rows)


def check_step(cfg, model, dataset):
    """Train a few steps; the result is the trainer. Losses must be finite, and gradients reach the backbone."""
    # The data check has reported bad images.
    cfg = override(cfg, {"DATASETS.NUM_WORKERS": 0, "DATASETS.BAD_IMAGE": "skip"}, "check")
    max_iter = plan_steps(cfg.SOLVER, dataset, processes=1)
    trainer = build_trainer(cfg, model, dataset, 0, max_iter)
    trainer.max_iter = min(STEPS, max_iter)
    seconds = []

    def measure(result):
        seconds.append(result.seconds)
        trainer.stopped = len(seconds) > 1 and sum(seconds) > LONG

    trainer.hooks.append(SimpleNamespace(after_step=measure))

    # Collect the parameters of the backbone that receive a gradient other than 0.
    backbone = [p for p in getattr(model, "backbone", model).parameters() if p.requires_grad]
    reached = set()

    def remember(parameter):
        if parameter.grad.any():
            reached.add(parameter)

    for parameter in backbone:
        parameter.register_post_accumulate_grad_hook(remember)

    # Too little memory is a RuntimeError on the CPU, and a subclass of it on GPUs.
    try:
        trainer.train()
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        problem = f"too little memory for SOLVER.BATCH_SIZE {cfg.SOLVER.BATCH_SIZE}: {str(error).splitlines()[0]}"
        remedy = "lower it, raise SOLVER.ACCUMULATION, or use smaller images (TRANSFORMS.TRAIN)"
        raise UserError(f"{problem}; {remedy}") from None
    if backbone and not reached:
        raise UserError("no gradient reaches the backbone: a custom part detaches its features, or all losses are 0")

    losses = ", ".join(f"{name} {value:.3f}" for name, value in trainer.result.losses.items())
    gradients = f"gradients reach {len(reached)} of {len(backbone)} trained tensors of the backbone"
    typical = statistics.median(seconds[1:] or seconds)  # the first step is slower
    total = tqdm.format_interval(max_iter * typical)
    times = f"{typical:.1f} s per step; all {max_iter:,} steps take {total} at this rate, without evaluations"
    return trainer, f"{losses}; {gradients}; {times}"


def check_room(cfg, trainer):
    """Compare the peak memory, which the steps reached, and the size of the checkpoints with the machine's space."""
    peak = peak_memory()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0  # on Windows
    device = next(trainer.model.parameters()).device
    if device.type == "cuda":
        peak, total = torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory

    # The checkpoints to keep, one that is being written, and the weights alone in model_best and model_final.
    states = [trainer.state_dict()] * (cfg.SOLVER.KEEP_CHECKPOINTS + 1) + [trainer.model.state_dict()] * 2
    needed = sum(leaf.nbytes for leaf in tree_leaves(states) if isinstance(leaf, torch.Tensor))
    folder = user_path(cfg.OUTPUT_DIR).absolute()
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free

    sizes = [f"{size / 2**30:.2f} GB" for size in (peak, total, needed, free)]
    memory = "memory: {0} of {1} used" if total else "memory: unknown on this system"
    text = f"{memory}; disk space: {{2}} for checkpoints, {{3}} free".format(*sizes)
    if peak > 0.9 * total:
        raise UserError(f"{text}; lower SOLVER.BATCH_SIZE, or raise SOLVER.ACCUMULATION")
    if needed > free:
        raise UserError(f"{text}; set OUTPUT_DIR to another disk, or lower SOLVER.KEEP_CHECKPOINTS")
    return None, text
