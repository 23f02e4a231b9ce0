"""Anchors that fit a data set: k-means over the sizes of its boxes (Redmon and Farhadi 2017, YOLO9000, section 2).

Shape shorthand: B boxes, A anchors. Sizes are (width, height), in pixels of the network's input.
"""

import logging

import numpy as np

from detlite.data import ResizeShortSide, build_dataset
from detlite.errors import UserError
from detlite.registry import ANCHOR_GENERATORS, BACKBONES, TRANSFORMS

logger = logging.getLogger("detlite")

KEEP_SIZES = ("RandomHorizontalFlip",)  # transforms that leave the boxes' sizes as they are
MAX_CLUSTERED = 50_000  # boxes, at random, that the clusters are found on
ATTEMPTS, MAX_ROUNDS = 10, 100


def find_anchors(cfg, num):
    """Anchors for DATASETS.TRAIN, and how well they and the config's own fit its boxes.

    Args:
        cfg: what :func:`detlite.config.load_config` returned.
        num: how many, over all feature levels.

    Returns:
        anchors: for each feature level a list of [width, height], from small to large over the levels;
        rows: two dicts, of the config's own anchors and of those found, as :func:`fit` gives them.

    Raises:
        UserError: ``num`` cannot be divided among the levels, or there are not so many different boxes.
    """
    strides = list(BACKBONES.build(cfg.MODEL.BACKBONE).strides.values())
    if num < 1 or num % len(strides):
        raise UserError(
            f"--num {num}: one head serves all feature levels, so that each needs as many anchors: "
            f"take a multiple of {len(strides)}"
        )
    sizes = training_box_sizes(cfg)
    found = cluster(sizes, num, cfg.SEED).round(1).clip(min=0.1)
    rows = [
        {"anchors": f"{cfg.MODEL.RPN.ANCHOR_GENERATOR.NAME}, the config's", **fit(sizes, own_anchors(cfg, strides))},
        {"anchors": "ListAnchorGenerator, found", **fit(sizes, found)},
    ]
    return [level.tolist() for level in np.split(found, len(strides))], rows


def own_anchors(cfg, strides):
    """The sizes (A, 2) of the config's own anchors, of all feature levels; ``strides`` are the backbone's."""
    generator = ANCHOR_GENERATORS.build(cfg.MODEL.RPN.ANCHOR_GENERATOR, strides)
    own = np.concatenate([level.numpy() for level in generator([(1, 1)] * len(strides))])
    return (own[:, 2:] - own[:, :2]).astype(float)


def training_box_sizes(cfg):
    """The sizes (B, 2) of the boxes of DATASETS.TRAIN as the network sees them: clipped to the image and resized.

    Where a ResizeShortSide draws from several sizes, each box counts once in each. Crowd regions, which train nothing,
    are left out.
    """
    resizes = []
    for number, node in enumerate(cfg.TRANSFORMS.TRAIN):
        transform = TRANSFORMS.build(node)
        if isinstance(transform, ResizeShortSide):
            resizes.append(transform)
        elif node.NAME not in KEEP_SIZES:
            logger.warning("TRANSFORMS.TRAIN.%d: %s is taken to leave the boxes' sizes as they are", number, node.NAME)
    return box_sizes([build_dataset(node) for node in cfg.DATASETS.TRAIN], resizes)


def box_sizes(datasets, resizes):
    """The sizes (B, 2) of data sets' boxes, clipped to the image, after ``resizes``, a list of ResizeShortSide."""
    found = [np.empty((0, 2))]
    for dataset in datasets:
        truth = dataset.coco()
        image_sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
        objects = [annotation for annotation in truth["annotations"] if not annotation.get("iscrowd")]
        if not objects:
            continue
        boxes = np.array([annotation["bbox"] for annotation in objects], float)
        original = np.array([image_sizes[annotation["image_id"]] for annotation in objects])[:, ::-1]  # (width, height)
        low, high = boxes[:, :2].clip(min=0), np.minimum(boxes[:, :2] + boxes[:, 2:], original)
        shapes, of_shape = np.unique(original, axis=0, return_inverse=True)
        for scale in zip(*(scales(resizes, (height, width)) for width, height in shapes.tolist()), strict=True):
            found.append((high - low) * np.array(scale)[of_shape.reshape(-1)])
    sizes = np.concatenate(found)
    return sizes[(sizes > 0).all(axis=1)]


def scales(resizes, image_size):
    """By how much (width, height) the resizes scale an image, one pair for every choice of sizes that they have.

    >>> scales([ResizeShortSide(size=[60, 90])], (30, 20))
    [(3.0, 3.0), (4.5, 4.5)]
    """
    outcomes = [tuple(image_size)]
    for resize in resizes:
        outcomes = [tuple(resize.new_size(outcome, size)) for outcome in outcomes for size in resize.sizes]
    return [(width / image_size[1], height / image_size[0]) for height, width in outcomes]


def size_iou(sizes, other):
    """IoU of boxes with one center: sizes (B, 2) and (A, 2) -> (B, A).

    >>> size_iou(np.array([[4.0, 2.0]]), np.array([[2.0, 4.0], [4.0, 4.0]])).round(4)
    array([[0.3333, 0.5   ]])
    """
    shared = np.minimum(sizes[:, None, 0], other[:, 0]) * np.minimum(sizes[:, None, 1], other[:, 1])  # [B, A]
    return shared / (sizes.prod(axis=1)[:, None] + other.prod(axis=1) - shared)


def cluster(sizes, num, seed):
    """Centers of k-means with the distance 1 - IoU: the best of several attempts, each begun as in k-means++.

    Args:
        sizes: (B, 2).
        num: A.
        seed: the same one gives the same centers.

    Returns:
        (A, 2), by area.

    Raises:
        UserError: there are fewer different sizes than ``num``.
    """
    different = len(np.unique(sizes, axis=0))
    if different < num:
        raise UserError(f"{num} anchors are wanted, but the boxes of DATASETS.TRAIN have only {different} sizes")
    generator = np.random.default_rng(seed)
    if len(sizes) > MAX_CLUSTERED:
        sizes = sizes[generator.choice(len(sizes), MAX_CLUSTERED, replace=False)]
    best, best_overlap = None, -1
    for _ in range(ATTEMPTS):
        centers, overlap = _attempt(sizes, num, generator)
        if overlap > best_overlap:
            best, best_overlap = centers, overlap
    return best[best.prod(axis=1).argsort(kind="stable")]


def _attempt(sizes, num, generator):
    """Centers (A, 2) and their mean best IoU."""
    centers = sizes[generator.integers(len(sizes), size=1)]
    while len(centers) < num:  # a box far from all centers is likely to be the next
        distances = 1 - size_iou(sizes, centers).max(axis=1).clip(max=1)
        total = distances.sum()
        chance = distances / total if total > 0 else None
        centers = np.concatenate([centers, sizes[generator.choice(len(sizes), size=1, p=chance)]])
    nearest = None
    for _ in range(MAX_ROUNDS):
        before, nearest = nearest, size_iou(sizes, centers).argmax(axis=1)
        if before is not None and (before == nearest).all():
            break
        counts = np.bincount(nearest, minlength=num)
        sums = np.stack([np.bincount(nearest, weights=side, minlength=num) for side in sizes.T], axis=1)
        centers = np.where(counts[:, None] > 0, sums / counts.clip(min=1)[:, None], centers)
    return centers, size_iou(sizes, centers).max(axis=1).mean()


def fit(sizes, anchors):
    """How well anchors fit boxes, each box to the one that it overlaps most where their centers agree.

    Args:
        sizes: (B, 2).
        anchors: (A, 2).

    Returns:
        {"number": A, "mean IoU", "recall at 0.5", "recall at 0.7"}: of the boxes' best IoUs, the mean, and the shares
        that are at least so high.
    """
    best = np.zeros(len(sizes))
    for anchor in anchors:
        best = np.maximum(best, size_iou(sizes, anchor[None])[:, 0])
    return {
        "number": len(anchors),
        "mean IoU": float(best.mean()),
        "recall at 0.5": float((best >= 0.5).mean()),
        "recall at 0.7": float((best >= 0.7).mean()),
    }


def format_yaml_of(anchors):
    """The lines of a config that use anchors as :func:`find_anchors` returns them."""
    values = anchors[0] if len(anchors) == 1 else anchors
    return f"MODEL:\n  RPN:\n    ANCHOR_GENERATOR:\n      NAME: ListAnchorGenerator\n      ANCHORS: {values}"
