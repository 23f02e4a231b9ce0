"""Judge anchors where they are: on the grid of feature cells, by the RPN's rule at the image's border.

Letters: B objects, A anchors of a cell. Sizes are (width, height), in pixels of the network's input.
"""

import logging

import numpy as np
import torch
from tabulate import tabulate

from detlite.config import override
from detlite.errors import UserError
from detlite.evaluation.evaluator import select
from detlite.guard import checking_parts
from detlite.preparation.anchors import cluster, find_resizes, size_iou, training_objects
from detlite.registry import ANCHOR_GENERATORS, BACKBONES

SAMPLE = 3000  # objects that are judged, drawn at random from more
LARGEST = 10_000  # pixels; an input with a longer side is no image, or takes too long to judge
LEAST_RECALL, FEWEST = 0.9, 50  # recall at 0.5 below which anchors are poor, of all objects or a class of this many
SIZES = {"small": (0, 32), "medium": (32, 96), "large": (96, np.inf)}  # COCO's, of the square root of the area
ANCHORS = "set MODEL.RPN.ANCHOR_GENERATOR to anchors of the objects' sizes, which `detlite anchors` finds"
INSIDE = "set MODEL.RPN.INSIDE_ONLY to False, because many anchors near the border leave the image"
FINER = "add a finer level to MODEL.BACKBONE (LEVELS, or FPN), or enlarge the objects (TRANSFORMS, or TiledDataset)"


def find_anchors(cfg, num):
    """Find ``num`` anchors for DATASETS.TRAIN, from small to large over the feature levels.

    Returns a list of [width, height] per level, and the results of :func:`judge_anchors` for the config's anchors and
    for the found ones.
    """
    levels = len(BACKBONES.build(cfg.MODEL.BACKBONE).strides)
    if num < 1 or num % levels:
        raise UserError(f"--num {num}: all feature levels need equal numbers of anchors; use a multiple of {levels}")
    objects, classes = training_objects(cfg)
    found = cluster(objects.boxes[:, 2:], num, cfg.SEED).round(1).clip(min=0.1).reshape(levels, -1, 2).tolist()
    node = {"NAME": "ListAnchorGenerator", "ANCHORS": found}
    changed = override(cfg, {"MODEL.RPN.ANCHOR_GENERATOR": node}, "anchors")
    return found, [judge_anchors(config, objects, classes) for config in (cfg, changed)]


def judge_anchors(cfg, objects, classes):
    """Measure the recall of :class:`~detlite.preparation.anchors.Objects` in the network's input by a config's anchors.

    Returns a dict per group of objects (all, each size, each class), and the remedy: text that names a key to change,
    or "" if the recall of all or of a class is not poor.
    """
    if len(objects.labels) > SAMPLE:
        objects = select(objects, np.random.default_rng(0).choice(len(objects.labels), SAMPLE, replace=False))
    rpn, strides = cfg.MODEL.RPN, list(BACKBONES.build(cfg.MODEL.BACKBONE).strides.values())
    generator = ANCHOR_GENERATORS.build(rpn.ANCHOR_GENERATOR, strides)
    ious = grid_ious(generator, strides, objects, rpn.INSIDE_ONLY)

    sides = np.sqrt(objects.boxes[:, 2:].prod(axis=1))
    groups = {"all": sides >= 0}  # masks of the objects
    groups |= {name: (sides >= low) & (sides < high) for name, (low, high) in SIZES.items()}
    groups |= {f"class {name}": objects.labels == index for index, name in enumerate(classes)}
    rows, is_poor = [], sides < 0
    for name, group in groups.items():
        if group.any():
            row = {"objects": name, "number": int(group.sum()), "recall at 0.5": float((ious[group] >= 0.5).mean())}
            if "FOREGROUND_IOU" in rpn.get("MATCHER", {}):
                row["recall at FOREGROUND_IOU"] = float((ious[group] >= rpn.MATCHER.FOREGROUND_IOU).mean())
            rows.append(row)
            if row["recall at 0.5"] < LEAST_RECALL and (name == "all" or name not in SIZES and row["number"] >= FEWEST):
                is_poor |= group
    if not is_poor.any():
        return rows, ""

    # The first cause that explains the poor recall: the anchors' sizes, the border, or the distance of the cells.
    poor = select(objects, is_poor)
    with checking_parts():
        anchors = torch.cat(list(generator([(1, 1)] * len(strides), torch.device("cpu")))).numpy()
    if (size_iou(poor.boxes[:, 2:], anchors[:, 2:] - anchors[:, :2]).max(axis=1) >= 0.5).mean() < LEAST_RECALL:
        return rows, ANCHORS
    free = (grid_ious(generator, strides, poor, inside_only=False) >= 0.5).mean()
    return rows, INSIDE if rpn.INSIDE_ONLY and free >= LEAST_RECALL else FINER


def judge_training(cfg, datasets):
    """Return the results of :func:`judge_anchors` for the built data sets of DATASETS.TRAIN, or None.

    None is for a detector without anchors, for data sets without objects or ``coco()``, for inputs over LARGEST px, and
    for transforms whose effect on the boxes' sizes is unknown.
    """
    has_keys = "BACKBONE" in cfg.MODEL and {"ANCHOR_GENERATOR", "INSIDE_ONLY"} <= cfg.MODEL.get("RPN", {}).keys()
    if not has_keys or find_resizes(cfg)[1] or not all(hasattr(dataset, "coco") for dataset in datasets):
        return None
    with checking_parts():  # a custom data set may lack coco(), or break its contract
        objects, classes = training_objects(cfg, datasets)
    can_judge = len(objects.labels) and objects.image_sizes.max() <= LARGEST
    return judge_anchors(cfg, objects, classes) if can_judge else None


def log_recall(cfg, dataset):
    """Log the results of :func:`judge_training`, unless None, for the built data set of DATASETS.TRAIN."""
    if judged := judge_training(cfg, getattr(dataset, "datasets", [dataset])):
        rows, remedy = judged
        text = tabulate(rows, headers="keys", floatfmt=".3f") + (f"\npoor: {remedy}" if remedy else "")
        logging.getLogger("detlite").info("objects that an anchor of the grid fits:\n%s", text)


def describe_recall(rows):
    """Describe the recall of all objects, and the sizes and classes with poor recall, in one line."""
    text = f"{rows[0]['recall at 0.5']:.1%} of {rows[0]['number']:,} objects have an anchor with an IoU of 0.5 or more"
    if "recall at FOREGROUND_IOU" in rows[0]:
        text += f", {rows[0]['recall at FOREGROUND_IOU']:.1%} one of FOREGROUND_IOU"
    poor = [row for row in rows[1:] if row["recall at 0.5"] < LEAST_RECALL and row["number"] >= FEWEST]
    poor = [f"{row['objects']} {row['recall at 0.5']:.1%}" for row in poor]
    return f"{text}; poor at 0.5: {', '.join(poor)}" if poor else text


def grid_ious(generator, strides, objects, inside_only):
    """Return the largest IoU (B,) of each object with an anchor of the grid.

    The shared area is a product of a width, which depends on the anchor's column, and a height, which depends on its
    row. So the best column and the best row are found separately.
    """
    sizes, best = objects.boxes[:, 2:], 0
    low, high = objects.boxes[:, None, None, :2], objects.boxes[:, None, None, :2] + sizes[:, None, None]
    feature_sizes = [tuple(np.ceil(objects.image_sizes.max(axis=0) / stride).astype(int)[::-1]) for stride in strides]
    with checking_parts():  # one row of cells, and one column
        row = generator([(1, width) for _, width in feature_sizes], torch.device("cpu"))
        column = generator([(height, 1) for height, _ in feature_sizes], torch.device("cpu"))
    for stride, size, *lines in zip(strides, feature_sizes, row, column, strict=True):
        # Across the border, an anchor only needs its center in the padded image.
        limits = objects.image_sizes if inside_only else np.ceil(objects.image_sizes / stride) * stride
        shared = 1
        for axis, (anchors, count) in enumerate(zip(lines, size[::-1], strict=True)):
            anchors = anchors.numpy().reshape(count, -1, 4)
            start, end = anchors[..., axis], anchors[..., axis + 2]  # (n, A)
            limit = limits[:, None, None, axis]  # (B, 1, 1)
            is_used = (start >= 0) & (end <= limit) if inside_only else start + end < 2 * limit
            overlaps = np.minimum(high[..., axis], end) - np.maximum(low[..., axis], start)  # (B, n, A)
            shared = shared * np.where(is_used, overlaps, 0).max(axis=1).clip(min=0)
        areas = (anchors[0, :, 2:] - anchors[0, :, :2]).prod(axis=1)
        best = np.maximum(best, (shared / (sizes.prod(axis=1)[:, None] + areas - shared)).max(axis=1))
    return best
