"""Warnings about numbers with which a training cannot succeed, or wastes its time, and what would help."""

import torch

from detlite.modeling.rpn import RPN

FEWEST_OBJECTS = 20  # before there is anything to say about them


def advice(trainer, sums):
    """What to tell about the steps of a log line.

    Args:
        trainer: the :class:`~detlite.engine.trainer.Trainer`, after the last of them.
        sums: {name: (sum, count)} over them, as its statistics.

    Yields:
        (kind, text): each kind is worth telling once.
    """
    matched, objects = sums.get("objects_matched", (0, 0))
    if objects >= FEWEST_OBJECTS and matched < objects / 2:
        yield (
            "anchors",
            f"{1 - matched / objects:.0%} of objects match no anchor (IoU under 0.5 with those that train): "
            f"{_sizes(trainer)}; tools/anchors.py finds some that fit, and MODEL.RPN.INSIDE_ONLY leaves out many",
        )
    for stage, section in (("rpn", "RPN"), ("roi", "ROI_HEADS")):
        foreground, images = sums.get(f"{stage}_foreground", (0, 0))
        if images and not foreground and objects >= FEWEST_OBJECTS:
            yield stage, f"no foreground was sampled in {images:.0f} images: see MODEL.{section}.MATCHER and .SAMPLER"
    if objects == 0 and "objects_matched" in sums:
        images = sums.get("rpn_foreground", (0, 0))[1]
        if images >= FEWEST_OBJECTS:
            yield "objects", f"the last {images:.0f} images hold no object: nothing is learnt from them but background"
    seconds, steps = sums["seconds_per_step"]
    waited = sums["data_seconds_per_step"][0]
    if steps > 1 and waited > seconds / 2:  # not after a single step, which waits for the workers to start
        workers = getattr(trainer.batches, "num_workers", 0)
        yield (
            "data",
            f"{waited / seconds:.0%} of the time is spent waiting for images: more DATASETS.NUM_WORKERS than {workers} "
            "or smaller files help",
        )


def _sizes(trainer):
    """The smallest and largest anchor beside the last batch's objects."""
    boxes = torch.cat([target["boxes"] for target in trainer.targets])
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
    text = f"the median object is {sides.median():.0f} px a side"
    rpn = next((module for module in trainer.model.modules() if isinstance(module, RPN)), None)
    if rpn is None:
        return text
    anchors = torch.cat(rpn.anchor_generator([(1, 1)] * len(rpn.anchor_generator.num_anchors), boxes.device))
    sides = (anchors[:, 2:] - anchors[:, :2]).prod(dim=1).sqrt()
    return f"smallest anchor {sides.min():.0f} px, largest {sides.max():.0f}, {text}"
