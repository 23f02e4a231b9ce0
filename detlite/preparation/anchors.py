"""Find anchors that fit a data set: k-means over the sizes of its boxes (Redmon and Farhadi 2017, YOLO9000, section 2).

Shape shorthand: B boxes, A anchors. Sizes are (width, height), in pixels of the network's input.
"""

import logging

import numpy as np
import torch

from detlite.data import ResizeShortSide, build_dataset
from detlite.data.augmentations import PIXELS
from detlite.errors import UserError
from detlite.guard import checking_parts
from detlite.registry import ANCHOR_GENERATORS, BACKBONES, TRANSFORMS

logger = logging.getLogger("detlite")

KEEP_SIZES = ("RandomHorizontalFlip", "RandomVerticalFlip", *PIXELS)  # transforms that keep the boxes' sizes
MAX_CLUSTERED = 50_000  # clusters are found on a random subset of at most this many boxes
ATTEMPTS, MAX_ROUNDS = 10, 100


def find_anchors(cfg, num):
    """Find anchors for DATASETS.TRAIN, and measure how well they and the config's anchors fit its boxes.

    ``num`` is the number of anchors, over all feature levels together.

    Returns:
        anchors: for each feature level a list of [width, height], from small to large over the levels;
        rows: two dicts as :func:`fit` returns them, of the config's anchors and of the found ones.
    """
    strides = list(BACKBONES.build(cfg.MODEL.BACKBONE).strides.values())
    if num < 1 or num % len(strides):
        raise UserError(
            f"--num {num}: all feature levels share one head, so they need equal numbers of anchors; use a multiple of "
            f"{len(strides)}"
        )
    sizes = training_box_sizes(cfg)
    found = cluster(sizes, num, cfg.SEED).round(1).clip(min=0.1)
    rows = [
        {"anchors": f"{cfg.MODEL.RPN.ANCHOR_GENERATOR.NAME}, the config's", **fit(sizes, own_anchors(cfg, strides))},
        {"anchors": "ListAnchorGenerator, found", **fit(sizes, found)},
    ]
    return found.reshape(len(strides), -1, 2).tolist(), rows


def own_anchors(cfg, strides):
    """Return the sizes (A, 2) of the config's anchors on all feature levels; ``strides`` are the backbone's."""
    generator = ANCHOR_GENERATORS.build(cfg.MODEL.RPN.ANCHOR_GENERATOR, strides)
    with checking_parts():
        anchors = torch.cat(list(generator([(1, 1)] * len(strides), torch.device("cpu"))))
    return (anchors[:, 2:] - anchors[:, :2]).numpy().astype(float)


def training_box_sizes(cfg):
    """Return the sizes (B, 2) of DATASETS.TRAIN's boxes after each ResizeShortSide, see :func:`box_sizes`."""
    resizes = []
    for index, node in enumerate(cfg.TRANSFORMS.TRAIN):
        transform = TRANSFORMS.build(node)
        if isinstance(transform, ResizeShortSide):
            resizes.append(transform)
        elif node.NAME not in KEEP_SIZES:
            logger.warning("TRANSFORMS.TRAIN.%d: %s is assumed not to change the boxes' sizes", index, node.NAME)
    return box_sizes(map(build_dataset, cfg.DATASETS.TRAIN), resizes)


def box_sizes(datasets, resizes):
    """Return the sizes (B, 2) of data sets' boxes, clipped to the image and resized by a list of ResizeShortSide.

    A ResizeShortSide that draws from several sizes counts with the middle one.
    """
    boxes, image_sizes, _ = read_objects(datasets)
    low, high = boxes[:, :2].clip(min=0), np.minimum(boxes[:, :2] + boxes[:, 2:], image_sizes)

    # Each different image size is resized once.
    different, indices = np.unique(image_sizes, axis=0, return_inverse=True)
    new_sizes = []
    for width, height in different.tolist():
        new_size = height, width
        for resize in resizes:
            new_size = resize.new_size(new_size, sorted(resize.sizes)[len(resize.sizes) // 2])
        new_sizes.append(new_size[::-1])
    scales = np.array(new_sizes).reshape(-1, 2) / different
    sizes = (high - low) * scales[indices.reshape(-1)]
    return sizes[(sizes > 0).all(axis=1)]


def read_objects(datasets):
    """Return boxes (B, 4), sizes of their images (B, 2), and class indices (B,) from 0, without crowd regions."""
    boxes, image_sizes, classes = [], [], []
    for dataset in datasets:
        truth = dataset.coco()
        size_of = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
        index_of = {category_id: index for index, category_id in enumerate(dataset.category_ids)}
        for row in truth["annotations"]:
            if not row.get("iscrowd"):  # training ignores crowd regions
                boxes.append(row["bbox"])
                image_sizes.append(size_of[row["image_id"]])
                classes.append(index_of[row["category_id"]])
    return np.array(boxes, float).reshape(-1, 4), np.array(image_sizes).reshape(-1, 2), np.array(classes, int)


def size_iou(sizes, other):
    """Return the IoU of boxes with equal centers: sizes (B, 2) and (A, 2) -> (B, A).

    >>> size_iou(np.array([[4.0, 2.0]]), np.array([[2.0, 4.0], [4.0, 4.0]])).round(4)
    array([[0.3333, 0.5   ]])
    """
    shared = np.minimum(sizes[:, None, 0], other[:, 0]) * np.minimum(sizes[:, None, 1], other[:, 1])  # [B, A]
    return shared / (sizes.prod(axis=1)[:, None] + other.prod(axis=1) - shared)


def cluster(sizes, num, seed):
    """Return the centers (num, 2), sorted by area, of k-means over sizes (B, 2) with the distance 1 - IoU.

    They are the best of several attempts, each from random boxes. Equal seeds give equal centers. Fewer different sizes
    than ``num`` are a UserError.
    """
    different = np.unique(sizes, axis=0)
    if len(different) < num:
        raise UserError(f"{num} anchors are wanted, but the boxes of DATASETS.TRAIN have only {len(different)} sizes")
    generator = np.random.default_rng(seed)
    if len(sizes) > MAX_CLUSTERED:
        sizes = sizes[generator.choice(len(sizes), MAX_CLUSTERED, replace=False)]
    best, best_overlap = None, -1
    for _ in range(ATTEMPTS):
        centers = _move_centers(sizes, generator.choice(different, num, replace=False))
        overlap = size_iou(sizes, centers).max(axis=1).mean()
        if overlap > best_overlap:
            best, best_overlap = centers, overlap
    return best[best.prod(axis=1).argsort(kind="stable")]


def _move_centers(sizes, centers):
    """Move each center to the mean of its boxes until no box changes its center. A center without boxes stays."""
    nearest = None
    for _ in range(MAX_ROUNDS):
        before, nearest = nearest, size_iou(sizes, centers).argmax(axis=1)
        if before is not None and (before == nearest).all():
            break
        counts = np.bincount(nearest, minlength=len(centers))[:, None]
        sums = np.stack([np.bincount(nearest, weights=side, minlength=len(centers)) for side in sizes.T], axis=1)
        centers = np.where(counts > 0, sums / counts.clip(min=1), centers)
    return centers


def fit(sizes, anchors):
    """Measure how well anchors (A, 2) fit boxes (B, 2): by each box's best IoU with an anchor of equal center.

    Returns:
        {"number": A, "mean IoU", "recall at 0.5", "recall at 0.7"}: the mean of the boxes' best IoUs, and the
        fractions of boxes with a best IoU of at least 0.5 and 0.7.
    """
    best = size_iou(sizes, anchors).max(axis=1)
    return {
        "number": len(anchors),
        "mean IoU": float(best.mean()),
        "recall at 0.5": float((best >= 0.5).mean()),
        "recall at 0.7": float((best >= 0.7).mean()),
    }
