"""Check that a training can run: weights, model, precision, anchors and two steps.

Each check returns (result, text to report), and raises a UserError with the remedy if a training would fail.
"""

import numpy as np
import torch
from tqdm import tqdm

from detlite.checkpoint import agree_on_pixels, load_weights, read_weights
from detlite.config import override
from detlite.engine.steps import plan_steps
from detlite.engine.train import build_trainer
from detlite.errors import UserError
from detlite.memory import peak_memory
from detlite.modeling import build_model
from detlite.modeling.precision import resolve_precision
from detlite.preparation.anchors import fit, own_anchors

MANY_UNLIKE = 0.25  # warn if more than this fraction of boxes has no anchor of a similar shape


def check_model(cfg):
    """Build the detector and load MODEL.WEIGHTS, if any; the result is the model."""
    weights = None
    if cfg.MODEL.WEIGHTS:
        weights = read_weights(cfg.MODEL.WEIGHTS)
        cfg = agree_on_pixels(cfg, weights)
    torch.manual_seed(cfg.SEED)
    model = build_model(cfg)

    total = trained = 0
    for parameter in model.parameters():
        total += parameter.numel()
        if parameter.requires_grad:
            trained += parameter.numel()
    text = f"{cfg.MODEL.NAME}, {total:,} parameters, {trained:,} of them trained, on {next(model.parameters()).device}"

    # Frozen layers need weights: training would never change their random numbers.
    if weights:
        report = load_weights(model, weights, min_match=cfg.MODEL.MIN_WEIGHTS_MATCH)
        loaded = sum(report.loaded.values())
        text += f"; {loaded:,} loaded from {weights.source}, {weights.layout.title}: {report.matched:.1%} of the "
        text += "parameters that such weights should provide"
    elif trained < total:
        raise UserError(
            f"{text}; MODEL.WEIGHTS is empty, so the frozen layers would stay random: set MODEL.WEIGHTS, or "
            "MODEL.BACKBONE.FREEZE_AT 0 and MODEL.FREEZE []"
        )
    return model, text


def check_precision(model):
    """Check that the device is not faster in fp32 than in MODEL.PRECISION."""
    precision = resolve_precision(model.precision_setting, next(model.parameters()).device)
    if precision.is_slow:
        raise UserError(str(precision))
    return None, str(precision)


def check_anchors(cfg, model, box_sizes):
    """Compare anchors with ``box_sizes``, (B, 2): an object without an anchor of similar shape is hard to learn."""
    anchors = own_anchors(cfg, list(model.backbone.strides.values()))
    unlike = 1 - fit(box_sizes, anchors)["recall at 0.5"]
    low, high = np.percentile(np.sqrt(box_sizes.prod(axis=1)), (5, 95))
    anchor_sides = np.sqrt(anchors.prod(axis=1))
    text = (
        f"{unlike:.1%} of {len(box_sizes):,} boxes have an IoU under 0.5 with every anchor, even with equal centers; "
        f"in the network's input, most boxes measure {low:.0f} to {high:.0f} px (square root of the area), anchors "
        f"{anchor_sides.min():.0f} to {anchor_sides.max():.0f} px"
    )
    if unlike > MANY_UNLIKE:
        raise UserError(f"{text}; find better anchors with `detlite anchors`, or change TRANSFORMS")
    return None, text


def check_step(cfg, model, dataset):
    """Train two steps. Losses must be finite, and gradients reach the backbone."""
    # The data check has reported bad images. The second step's time is typical; the first is slower.
    cfg = override(cfg, {"DATASETS.NUM_WORKERS": 0, "DATASETS.BAD_IMAGE": "skip"}, "check")
    max_iter = plan_steps(cfg.SOLVER, dataset, processes=1)
    trainer = build_trainer(cfg, model, dataset, 0, max_iter)
    trainer.max_iter = min(2, max_iter)

    # Collect the parameters of the backbone that receive a gradient other than 0.
    backbone = [p for p in getattr(model, "backbone", model).parameters() if p.requires_grad]
    reached = set()

    def remember(parameter):
        if parameter.grad.any():
            reached.add(parameter)

    handles = [parameter.register_post_accumulate_grad_hook(remember) for parameter in backbone]

    # Too little memory is a RuntimeError on the CPU, and a subclass of it on GPUs.
    try:
        trainer.train()
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        raise UserError(
            f"too little memory for SOLVER.BATCH_SIZE {cfg.SOLVER.BATCH_SIZE}: {str(error).splitlines()[0]}; lower it, "
            "raise SOLVER.ACCUMULATION, or use smaller images (TRANSFORMS.TRAIN)"
        ) from None
    finally:
        for handle in handles:
            handle.remove()
    if backbone and not reached:
        raise UserError(
            "no gradient reaches the backbone, so it would not learn; check whether a custom part detaches its "
            "features, or all losses are 0"
        )

    losses = ", ".join(f"{name} {value:.3f}" for name, value in trainer.result.losses.items())
    gradients = f"gradients reach {len(reached)} of {len(backbone)} trained tensors of the backbone"
    seconds = trainer.result.seconds
    total = tqdm.format_interval(max_iter * seconds)
    times = f"{seconds:.1f} s per step; all {max_iter:,} steps take {total} at this rate, without evaluations"
    device = next(model.parameters()).device
    peak = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_memory()
    return None, f"{losses}; {gradients}; {times}; peak memory {peak / 2**30:.2f} GB"
