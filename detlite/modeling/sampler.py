"""Samplers: the choice of matched boxes to train on.

All samplers take labels (R,) int64 (1 positive, 0 negative, others are never sampled) and a CPU torch.Generator, or
None for torch's default generator. They return (positive, negative), int64 indices into the labels.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from detlite.errors import require
from detlite.ops.batches import join_indices, starts_of
from detlite.ops.cpu import has_cpu_kernel
from detlite.registry import SAMPLERS
from detlite.signature import accepts, batch_method


class Samples(NamedTuple):
    """The sampled boxes of all images, as indices into the images' concatenated boxes.

    Images are in order. An image's positive boxes come first.
    """

    indices: torch.Tensor  # (S,)
    positive: torch.Tensor  # (P,), the positive ones of the indices
    counts: list[int]  # sampled boxes of each image
    positive_counts: list[int]


def sample(sampler, labels, generator, losses):
    """Sample from the labels (R,) of one image.

    ``losses`` is a function that returns the loss of each box (R,). Only samplers that accept it receive it.
    """
    if accepts(sampler, "losses"):
        return sampler(labels, generator, losses)
    return sampler(labels, generator)


def sample_images(sampler, labels, generators, losses):
    """Return the :class:`Samples` from the labels of all images.

    Args:
        sampler: a part of SAMPLERS.
        labels: for each image (R_i,).
        generators: one per image, each a generator or None. ``generators=None`` means None for every image.
        losses: a function from an image's index to the loss of each box (R_i,). Only some samplers call it.
    """
    generators = generators or [None] * len(labels)

    # On a GPU, one call for all images needs fewer copies.
    if not has_cpu_kernel(labels[0]) and batch_method(sampler, "sample_batch") is not None:
        pairs = sampler.sample_batch(labels, generators)
    else:
        pairs = []
        for image, (image_labels, generator) in enumerate(zip(labels, generators, strict=True)):
            pairs.append(sample(sampler, image_labels, generator, functools.partial(losses, image)))

    starts = starts_of(labels)
    sampled = [torch.cat(pair) for pair in pairs]
    positives = [positive for positive, _ in pairs]
    counts, positive_counts = list(map(len, sampled)), list(map(len, positives))
    return Samples(join_indices(sampled, starts), join_indices(positives, starts), counts, positive_counts)


def on_cpu(labels, draw):
    """Sample from the labels [(R_i,)] of all images on the CPU, with one copy from the device and one back.

    ``draw`` is a function (index of the image, its labels) -> (positive, negative), all numpy arrays.
    """
    counts = [len(image_labels) for image_labels in labels]
    all_labels = torch.cat(labels).to(torch.int8).cpu().numpy()
    drawn = []  # positive and negative indices of image 0, of image 1, ...
    for image, image_labels in enumerate(np.split(all_labels, np.cumsum(counts)[:-1])):
        positive, negative = draw(image, image_labels)
        drawn += [positive, negative]
    indices = torch.from_numpy(np.concatenate(drawn)).to(labels[0].device, non_blocking=True)
    parts = indices.split([len(part) for part in drawn])
    return list(zip(parts[::2], parts[1::2], strict=True))


@SAMPLERS.register()
class BalancedSampler:
    """Random boxes, at most a fraction of them positive (Ren et al. 2015, 3.1.3).

    Args:
        num_samples: boxes sampled per image; fewer where there are not enough.
        positive_fraction: maximum fraction of them that is positive; negatives fill up the rest.
    """

    def __init__(self, *, num_samples: int = 256, positive_fraction: float = 0.5):
        fits = num_samples >= 1 and 0 <= positive_fraction <= 1
        require(fits, "need num_samples >= 1 and 0 <= positive_fraction <= 1", num_samples, positive_fraction)
        self.num_samples = num_samples
        self.positive_fraction = positive_fraction

    def __call__(self, labels: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return (positive, negative), sampled from labels (R,)."""
        return self.sample_batch([labels], [generator])[0]

    def sample_batch(self, labels: list[Tensor], generators: list) -> list:
        """Return [(positive, negative)], sampled from the labels [(R_i,)] of all images."""
        max_positive = int(self.num_samples * self.positive_fraction)

        def draw(image, labels):
            generator = generators[image]
            positive = choose(np.flatnonzero(labels == 1), max_positive, generator)
            negative = choose(np.flatnonzero(labels == 0), self.num_samples - len(positive), generator)
            return positive, negative

        return on_cpu(labels, draw)


@SAMPLERS.register()
class AllSampler:
    """All positive and all negative boxes, for the focal loss (Lin et al. 2017)."""

    def __call__(self, labels, generator=None):
        """Return all positive and all negative boxes of labels (R,)."""
        return self.sample_batch([labels], [generator])[0]

    def sample_batch(self, labels, generators):
        """Return [(positive, negative)], all boxes of the labels [(R_i,)] of all images."""
        return on_cpu(labels, lambda image, labels: (np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)))


@SAMPLERS.register()
class HardNegativeSampler(BalancedSampler):
    """Random positive boxes, and the negative boxes with the highest losses (after Shrivastava et al. 2016)."""

    def __call__(self, labels, generator, losses):
        """Return (positive, negative), sampled from labels (R,). ``losses()`` is the loss of each box (R,)."""
        positive, _ = super().__call__(labels, generator)
        negative = (labels == 0).nonzero().flatten()
        count = min(self.num_samples - len(positive), len(negative))
        hardest = losses()[negative].topk(count).indices
        return positive, negative[hardest]


def choose(indices, count, generator):
    """Choose at most ``count`` of the indices, a numpy array, by a torch.Generator of the CPU."""
    if len(indices) <= count:
        return indices
    return indices[torch.randperm(len(indices), generator=generator).numpy()[:count]]
