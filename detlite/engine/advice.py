"""Warnings about numbers that show a training that cannot succeed or wastes time, with the remedy."""

import torch

from detlite.modeling.rpn import RPN

FEWEST_OBJECTS = 20  # fewer say nothing


def advice(trainer, sums):
    """Yield (kind, warning) about the steps of a log line. A kind should be logged once per run.

    ``sums`` are {name: (sum, count)} over the steps, as in the trainer's statistics.
    """
    # Anchors that fit few objects.
    matched, objects = sums.get("objects_matched", (0, 0))
    if objects >= FEWEST_OBJECTS and matched < objects / 2:
        yield (
            "anchors",
            f"{1 - matched / objects:.0%} of objects match no anchor (IoU under 0.5 with those that train): "
            f"{_describe_sizes(trainer)}; `detlite anchors` finds fitting ones, and "
            "MODEL.RPN.INSIDE_ONLY leaves out many",
        )

    # A stage that never sees an object.
    for stage, section in (("rpn", "RPN"), ("roi", "ROI_HEADS")):
        foreground, images = sums.get(f"{stage}_foreground", (0, 0))
        if images and not foreground and objects >= FEWEST_OBJECTS:
            yield stage, f"no foreground was sampled in {images:.0f} images: see MODEL.{section}.MATCHER and .SAMPLER"
        if images >= FEWEST_OBJECTS and sums.get("objects_matched") == (0, 0):
            yield "objects", f"the last {images:.0f} images have no objects: only background is learned from them"

    # A step that waits for images. The first one always does: the workers start.
    seconds, steps = sums["seconds_per_step"]
    waited = sums["data_seconds_per_step"][0]
    if steps > 1 and waited > seconds / 2:
        workers = getattr(trainer.batches, "num_workers", 0)
        yield (
            "data",
            f"{waited / seconds:.0%} of the time is spent waiting for images: increase DATASETS.NUM_WORKERS "
            f"({workers}) or use smaller files",
        )


def _describe_sizes(trainer):
    """Compare the smallest and largest anchor with the last batch's objects, in words."""
    boxes = torch.cat([target["boxes"] for target in trainer.result.targets])
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
    text = f"the median object is {sides.median():.0f} px a side"
    for module in trainer.model.modules():
        if isinstance(module, RPN):
            generator = module.anchor_generator
            anchors = torch.cat(generator([(1, 1)] * len(generator.num_anchors), boxes.device))
            sides = (anchors[:, 2:] - anchors[:, :2]).prod(dim=1).sqrt()
            return f"smallest anchor {sides.min():.0f} px, largest {sides.max():.0f}, {text}"
    return text
