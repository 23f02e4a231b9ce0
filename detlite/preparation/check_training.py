"""Whether a training would run: weights, model, two steps, memory, disk space. Each raises a UserError if not."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from detlite.checkpoint import Weights, agree_on_pixels, load_weights, read_weights
from detlite.data import build_transforms, training_loader
from detlite.engine.log import format_seconds
from detlite.engine.steps import plan_steps
from detlite.engine.trainer import Trainer
from detlite.errors import UserError
from detlite.memory import peak_memory
from detlite.modeling import build_model
from detlite.preparation.anchors import fit, own_anchors
from detlite.solver import build_lr_scheduler, build_optimizer

MANY_UNLIKE = 0.25  # so large a share of boxes without an anchor of their shape is worth a warning


class _Text:
    """What is printed of a result that is also needed later."""

    def __str__(self):
        return self.text


@dataclass
class ReadWeights(_Text):
    """Weights that were read."""

    weights: Weights
    text: str


@dataclass
class BuiltModel(_Text):
    """A model with its initial weights."""

    model: torch.nn.Module
    text: str


@dataclass
class Step(_Text):
    """Steps that were tried; ``model_bytes`` and ``optimizer_bytes`` are what their checkpoint would hold."""

    model_bytes: int
    optimizer_bytes: int
    text: str


def check_weights(cfg):
    """Read MODEL.WEIGHTS."""
    weights = read_weights(cfg.MODEL.WEIGHTS)
    return ReadWeights(weights, f"{weights.source}: {weights.layout.title}, {len(weights.state)} tensors")


def check_model(cfg, read):
    """Build the detector and load its weights.

    Args:
        cfg: the config.
        read: :class:`ReadWeights`, or None.
    """
    if read:
        cfg = agree_on_pixels(cfg, read.weights)
    torch.manual_seed(cfg.SEED)
    model = build_model(cfg)
    parameters = list(model.parameters())
    total, trained = (sum(p.numel() for p in ps) for ps in (parameters, [p for p in parameters if p.requires_grad]))
    text = f"{cfg.MODEL.NAME}, {total:,} parameters, {trained:,} of them trained, on {parameters[0].device}"
    if read:
        report = load_weights(model, read.weights, min_match=cfg.MODEL.MIN_WEIGHTS_MATCH)
        loaded = sum(report.loaded.values())
        text += f"; {loaded:,} loaded, {report.matched:.1%} of what the weights are for"
    elif trained < total and not cfg.MODEL.WEIGHTS:
        raise UserError(
            f"{text}; MODEL.WEIGHTS is empty, but some layers are frozen: they would stay random; name weights, or set "
            "MODEL.BACKBONE.FREEZE_AT 0"
        )
    return BuiltModel(model, text)


def check_anchors(cfg, built, box_sizes):
    """Compare the boxes to train on with the anchors' shapes: without a similar one an object is hard to learn.

    Args:
        cfg: the config.
        built: :class:`BuiltModel`.
        box_sizes: (B, 2) (width, height), in pixels of the network's input.
    """
    anchors = own_anchors(cfg, list(built.model.backbone.strides.values()))
    unlike = 1 - fit(box_sizes, anchors)["recall at 0.5"]
    sides, anchor_sides = (np.sqrt(sizes.prod(axis=1)) for sizes in (box_sizes, anchors))
    low, middle, high = np.percentile(sides, (5, 50, 95))
    text = (
        f"{unlike:.1%} of {len(box_sizes):,} boxes have an IoU under 0.5 with every anchor, even at the best place; in "
        f"the network's input boxes are {low:.0f} to {high:.0f} px large (square root of area, 5th to 95th percentile, "
        f"median {middle:.0f}), anchors {anchor_sides.min():.0f} to {anchor_sides.max():.0f}"
    )
    if unlike > MANY_UNLIKE:
        raise UserError(f"{text}; change MODEL.RPN.ANCHOR_GENERATOR or TRANSFORMS; `detlite anchors` finds better ones")
    return text


def check_step(cfg, built, dataset):
    """Train two steps: the loss must be finite, and gradients must reach the backbone.

    Args:
        cfg: the config.
        built: :class:`BuiltModel`; its weights are changed.
        dataset: to train on.
    """
    model, solver = built.model, cfg.SOLVER
    max_iter = plan_steps(solver, dataset, processes=1)
    batches = training_loader(
        dataset,
        build_transforms(cfg.TRANSFORMS.TRAIN),
        batch_size=solver.BATCH_SIZE,
        seed=cfg.SEED,
        num_workers=0,
        group_by_aspect_ratio=cfg.DATASETS.GROUP_BY_ASPECT_RATIO,
        bad_image="skip",  # what is wrong with them is already told
    )
    optimizer = build_optimizer(cfg, model)
    trainer = Trainer(
        model,
        optimizer,
        build_lr_scheduler(cfg, max_iter),
        batches,
        max_iter=min(2, max_iter),  # the first one's time is not a usual one
        accumulation=solver.ACCUMULATION,
        clip_gradient_norm=solver.CLIP_GRADIENT_NORM,
        seed=cfg.SEED,
    )
    backbone = [p for p in getattr(model, "backbone", model).parameters() if p.requires_grad]
    reached = set()
    handles = [
        p.register_post_accumulate_grad_hook(lambda p: reached.add(p) if p.grad.any() else None) for p in backbone
    ]
    try:
        trainer.train()
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        raise UserError(
            f"memory is too small for SOLVER.BATCH_SIZE {solver.BATCH_SIZE}: {str(error).splitlines()[0]}; lower it, "
            "raise SOLVER.ACCUMULATION, or take smaller images (TRANSFORMS.TRAIN)"
        ) from None
    finally:
        for handle in handles:
            handle.remove()
    if backbone and not reached:
        raise UserError(
            "no gradient reaches the backbone, so it would not learn: does a part of your own detach its features, or "
            "are all losses 0?"
        )
    losses = ", ".join(f"{name} {value:.3f}" for name, value in trainer.losses.items())
    where = f"gradients reach {len(reached)} of {len(backbone)} trained tensors of the backbone"
    text = f"{losses}; {where}; {trainer.step_seconds:.1f} s; all {max_iter:,} steps take "
    text += f"{format_seconds(max_iter * trainer.step_seconds)} at this rate, evaluations aside"
    optimizer_state = (value for state in optimizer.state.values() for value in state.values())
    return Step(_bytes(model.state_dict().values()), _bytes(optimizer_state), text)


def check_memory(cfg, built):
    """The most memory that was taken until now, that is, in the step, against what there is (GPUs: not tested)."""
    device = next(built.model.parameters()).device
    if device.type == "cuda":
        peak, total = torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
    else:
        peak = peak_memory()
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    text = f"at most {_gigabytes(peak)} of {_gigabytes(total)} with SOLVER.BATCH_SIZE {cfg.SOLVER.BATCH_SIZE}"
    if peak > 0.9 * total:
        raise UserError(f"{text}: larger images may not fit; lower SOLVER.BATCH_SIZE, or raise SOLVER.ACCUMULATION")
    return text


def check_disk(cfg, step):
    """Room for the checkpoints that are kept, the one that is being written, the best and the final weights."""
    folder = Path(cfg.OUTPUT_DIR).absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    states = cfg.SOLVER.KEEP_CHECKPOINTS + 1
    needed = states * (step.model_bytes + step.optimizer_bytes) + 2 * step.model_bytes
    free = shutil.disk_usage(existing).free
    text = f"{_gigabytes(free)} free at {existing}, {_gigabytes(needed)} needed for checkpoints"
    if free < needed:
        raise UserError(
            f"{text}: make room, set OUTPUT_DIR to a folder on a larger disk, or lower SOLVER.KEEP_CHECKPOINTS"
        )
    return text


def _bytes(values):
    """What tensors take; anything else counts as nothing."""
    return sum(value.numel() * value.element_size() for value in values if torch.is_tensor(value))


def _gigabytes(count):
    return f"{count / 2**30:.2f} GB"
