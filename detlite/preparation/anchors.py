"""Find anchors that fit a data set: k-means over the sizes of its boxes (Redmon and Farhadi 2017, YOLO9000, section 2).

Shape shorthand: B boxes, A anchors. Sizes are (width, height), in pixels of the network's input.
"""

import logging
from typing import NamedTuple

import numpy as np

from detlite.data import ResizeShortSide, build_dataset
from detlite.data.augmentations import PIXELS
from detlite.errors import UserError
from detlite.evaluation.evaluator import select, to_arrays
from detlite.registry import TRANSFORMS

logger = logging.getLogger("detlite")

# Transforms that keep the boxes' sizes, or, like Augmentation, enlarge them as often as they reduce them.
KEEP_SIZES = ("Augmentation", "RandomHorizontalFlip", "RandomVerticalFlip", *PIXELS)
MAX_CLUSTERED = 50_000  # clusters are found on a random subset of at most this many boxes
ATTEMPTS, MAX_ROUNDS = 10, 100


class Objects(NamedTuple):
    """Objects of one or several data sets, without crowd regions."""

    boxes: np.ndarray  # (B, 4) float, (x, y, width, height)
    image_sizes: np.ndarray  # (B, 2), of the objects' images
    labels: np.ndarray  # (B,) int, from 0


def training_objects(cfg, datasets=None):
    """Return the :class:`Objects` of DATASETS.TRAIN, or of its built ``datasets``, as resized, and the class names."""
    resizes, others = find_resizes(cfg)
    for node in others:
        logger.info("%s: for anchors, %s is assumed to keep the boxes' sizes", node.path, node.NAME)
    datasets = datasets or list(map(build_dataset, cfg.DATASETS.TRAIN))
    return resize(read_objects(datasets), resizes), list(datasets[0].classes)


def find_resizes(cfg):
    """Return each ResizeShortSide of TRANSFORMS.TRAIN, and the nodes of transforms whose effect on sizes is unknown."""
    transforms = [(node, TRANSFORMS.build(node)) for node in cfg.TRANSFORMS.TRAIN]
    resizes = [transform for _, transform in transforms if isinstance(transform, ResizeShortSide)]
    others = [node for node, transform in transforms if transform not in resizes and node.NAME not in KEEP_SIZES]
    return resizes, others


def resize(objects, resizes):
    """Return objects clipped to their images and resized by a list of ResizeShortSide, without those outside.

    A ResizeShortSide that draws from several sizes counts with the middle one.
    """
    low = objects.boxes[:, :2].clip(min=0)
    high = np.minimum(objects.boxes[:, :2] + objects.boxes[:, 2:], objects.image_sizes)

    # Each different image size is resized once.
    different, indices = np.unique(objects.image_sizes, axis=0, return_inverse=True)
    new_sizes = []
    for width, height in different.tolist():
        new_size = height, width
        for resize in resizes:
            new_size = resize.new_size(new_size, sorted(resize.sizes)[len(resize.sizes) // 2])
        new_sizes.append(new_size[::-1])
    new_sizes = np.array(new_sizes).reshape(-1, 2)[indices.reshape(-1)]
    boxes = np.hstack([low, high - low]) * np.tile(new_sizes / objects.image_sizes, 2)
    return select(Objects(boxes, new_sizes, objects.labels), (high > low).all(axis=1))


def read_objects(datasets):
    """Return the :class:`Objects` of data sets, in pixels of their images."""
    parts = []
    for dataset in datasets:
        objects, _ = to_arrays(dataset, [])
        objects = select(objects, ~objects.ignored)  # training ignores crowd regions
        parts.append((objects.boxes, np.asarray(dataset.sizes)[objects.images, ::-1], objects.labels - 1))
    return Objects(*map(np.concatenate, zip(*parts, strict=True)))


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
    attempts = [_move_centers(sizes, generator.choice(different, num, replace=False)) for _ in range(ATTEMPTS)]
    best = max(attempts, key=lambda centers: size_iou(sizes, centers).max(axis=1).mean())
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
