"""Image samplers: which images an epoch shows, and in which order.

An epoch always has N draws, the number of images, so that SOLVER.EPOCHS keeps its meaning. A sampler that shows some
images more often shows others less often.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from torch.utils.data import ConcatDataset

from detlite.errors import UserError, require
from detlite.registry import IMAGE_SAMPLERS


def build_image_sampler(node: dict, dataset: object) -> Callable:
    """Build the image sampler of ``DATASETS.IMAGE_SAMPLER`` for a data set, joined or not."""
    datasets = dataset.datasets if isinstance(dataset, ConcatDataset) else [dataset]
    lengths = list(map(len, datasets))
    return IMAGE_SAMPLERS.build(node, ImageLabels(datasets), np.repeat(np.arange(len(lengths)), lengths))


class ImageLabels(Sequence):
    """Labels of each image's objects, without crowd objects. They are read from the data sets when first needed."""

    def __init__(self, datasets):
        self.datasets = datasets

    def __len__(self):
        return sum(map(len, self.datasets))

    def __getitem__(self, index):
        return self._labels[index]

    @functools.cached_property
    def _labels(self):
        labels = []
        for dataset in self.datasets:
            truth = dataset.coco()
            label_of = {category_id: label for label, category_id in enumerate(dataset.category_ids, start=1)}
            by_image = {image["id"]: [] for image in truth["images"]}
            for row in truth["annotations"]:
                if not row.get("iscrowd", 0):
                    by_image[row["image_id"]].append(label_of[row["category_id"]])
            labels += [np.array(values, np.int64) for values in by_image.values()]
        return labels


def epoch_of(image_sampler, generator, num_images):
    """Return the image indices (N,) of one epoch. Raise a UserError if the sampler breaks its contract."""
    order = np.asarray(image_sampler(generator))
    fits = order.shape == (num_images,) and order.dtype.kind == "i"
    if not fits or not ((order >= 0) & (order < num_images)).all():
        rule = f"must return {num_images} indices from 0 to {num_images - 1}, got {order.dtype} {order.shape}"
        raise UserError(f"DATASETS.IMAGE_SAMPLER: {type(image_sampler).__name__} {rule}")
    return order


def draw_by_weight(weights, generator):
    """Draw N indices in random order from weights (N,), each index about N * weight / sum times.

    The number of times is rounded down or up at random, and its expectation is exact (systematic sampling).

    >>> sorted(draw_by_weight(np.array([2.0, 1.0, 1.0, 0.0]), np.random.default_rng(0)).tolist())
    [0, 0, 1, 2]
    """
    # Index i takes a stretch as long as its expected times, in random order. It is drawn once per mark in its stretch.
    # The marks are one apart, and the first one is random.
    count = len(weights)
    order = generator.permutation(count)
    ends = np.cumsum(weights[order]) * (count / weights.sum())
    ends[-1] = count
    marks = np.minimum(np.floor(ends + generator.random()), count).astype(np.int64)
    return generator.permutation(np.repeat(order, np.diff(marks, prepend=0)))


class _WeightedSampler:
    """Draws images in proportion to ``weights`` (N,), which subclasses set."""

    def __call__(self, generator):
        """Return the image indices (N,) of one epoch."""
        return draw_by_weight(self.weights, generator)


@IMAGE_SAMPLERS.register()
class UniformImageSampler:
    """Each image once per epoch, in random order."""

    def __init__(self, labels, dataset_numbers):
        self.num_images = len(labels)

    def __call__(self, generator):
        """Return the image indices (N,) of one epoch."""
        return generator.permutation(self.num_images)


@IMAGE_SAMPLERS.register()
class RepeatFactorSampler(_WeightedSampler):
    """Images with rare classes more often (Gupta et al. 2019, section 4.2).

    A class in the fraction f of the images has the factor max(1, sqrt(threshold / f)). An image has the largest factor
    of its classes, 1 without objects, and is shown that many times as often as an image with the factor 1.

    Args:
        threshold: classes in a smaller fraction of the images are repeated.
    """

    def __init__(self, labels, dataset_numbers, *, threshold: float = 0.001):
        require(0 <= threshold <= 1, "threshold must be from 0 to 1", threshold)
        classes = [np.unique(image_labels) for image_labels in labels]
        fractions = np.bincount(np.concatenate(classes)) / len(classes)
        class_factors = np.sqrt(threshold / np.maximum(fractions, 1 / len(classes))).clip(min=1)
        self.weights = np.array([class_factors[present].max(initial=1) for present in classes])


@IMAGE_SAMPLERS.register()
class DatasetWeightSampler(_WeightedSampler):
    """Images of each data set in a given proportion, whatever the data sets' sizes.

    Args:
        weights: share of each entry of DATASETS.TRAIN in the images shown, relative to the other shares, such as
            [3, 1]; an empty list gives all the same share.
    """

    def __init__(self, labels, dataset_numbers, *, weights: list[float] = ()):
        counts = np.bincount(dataset_numbers)
        shares = np.array(weights or np.ones(len(counts)), float)
        rule = f"weights: expected one per entry of DATASETS.TRAIN, {len(counts)}"
        require(len(shares) == len(counts), rule, list(weights))
        fits = all(0 <= share < math.inf for share in shares) and shares.any()
        require(fits, "weights must be finite, at least 0 and not all 0", list(weights))
        self.weights = (shares / counts)[dataset_numbers]
