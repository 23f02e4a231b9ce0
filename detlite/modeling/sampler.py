"""Samplers: the choice of matched boxes to train on.

All samplers take labels (R,) int64 (1 positive, 0 negative, others are never sampled) and a CPU torch.Generator, or
None for torch's default generator. They return (positive, negative), int64 indices into the labels.
"""

import functools

import numpy as np
import torch

from detlite.ops.cpu import has_cpu_kernel
from detlite.registry import SAMPLERS
from detlite.signature import accepts, batch_method


def sample(sampler, labels, generator, losses):
    """Call a part of SAMPLERS, with ``losses``, () -> (R,), if it accepts them."""
    if accepts(sampler, "losses"):
        return sampler(labels, generator, losses)
    return sampler(labels, generator)


def sample_images(sampler, labels, generators, losses):
    """Sample from the labels of all images.

    Args:
        sampler: a part of SAMPLERS.
        labels: for each image (R_i,).
        generators: for each image a generator or None; or None.
        losses: a function of an image's index, returns the losses (R_i,), for samplers that accept them.

    Returns:
        for each image (positive, negative), indices into its labels.
    """
    generators = generators or [None] * len(labels)
    if not has_cpu_kernel(labels[0]) and batch_method(sampler, "sample_batch") is not None:
        return sampler.sample_batch(labels, generators)
    samples = []
    for image, (image_labels, generator) in enumerate(zip(labels, generators, strict=True)):
        samples.append(sample(sampler, image_labels, generator, functools.partial(losses, image)))
    return samples


def on_cpu(labels, draw):
    """Sample from the labels of all images on the CPU, with one copy from the device and one back.

    Args:
        labels: for each image (R_i,).
        draw: a function of the index and the labels of an image, a numpy array; returns (positive, negative), arrays.
    """
    counts = [len(image_labels) for image_labels in labels]
    all_labels = torch.cat(labels).to(torch.int8).cpu().numpy()
    drawn = []
    for image, image_labels in enumerate(np.split(all_labels, np.cumsum(counts)[:-1])):
        drawn += draw(image, image_labels)
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
        if num_samples < 1 or not 0 <= positive_fraction <= 1:
            raise ValueError(
                f"need num_samples >= 1 and 0 <= positive_fraction <= 1, got {num_samples} and {positive_fraction}"
            )
        self.num_samples = num_samples
        self.positive_fraction = positive_fraction

    def __call__(self, labels, generator=None):
        """Sample from labels (R,): (positive, negative)."""
        positive = choose((labels == 1).nonzero().flatten(), int(self.num_samples * self.positive_fraction), generator)
        negative = choose((labels == 0).nonzero().flatten(), self.num_samples - len(positive), generator)
        return positive, negative

    def sample_batch(self, labels, generators):
        """Sample from the labels [(R_i,)] of all images, see ``SAMPLERS``."""

        def draw(image, labels):
            count, generator = int(self.num_samples * self.positive_fraction), generators[image]
            positive = choose_numpy(np.flatnonzero(labels == 1), count, generator)
            negative = choose_numpy(np.flatnonzero(labels == 0), self.num_samples - len(positive), generator)
            return positive, negative

        return on_cpu(labels, draw)


@SAMPLERS.register()
class AllSampler:
    """All positive and all negative boxes, as Lin et al. 2017 with the focal loss."""

    def __call__(self, labels, generator=None):
        """Return all positive and all negative boxes of labels (R,)."""
        return (labels == 1).nonzero().flatten(), (labels == 0).nonzero().flatten()

    def sample_batch(self, labels, generators):
        """Return all boxes of the labels [(R_i,)] of all images, see ``SAMPLERS``."""
        return on_cpu(labels, lambda image, labels: (np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)))


@SAMPLERS.register()
class HardNegativeSampler(BalancedSampler):
    """Random positive and the hardest negative boxes (after Shrivastava et al. 2016)."""

    def __call__(self, labels, generator, losses):
        """Sample from labels (R,), with a function ``losses`` () -> (R,)."""
        positive = choose((labels == 1).nonzero().flatten(), int(self.num_samples * self.positive_fraction), generator)
        negative = (labels == 0).nonzero().flatten()
        count = min(self.num_samples - len(positive), len(negative))
        return positive, negative[losses()[negative].topk(count).indices]


def choose(indices, count, generator):
    """Return ``count`` random ones of the indices (R,), or all if there are no more."""
    if len(indices) <= count:
        return indices
    # Drawn on the CPU, so that every device samples the same boxes.
    return indices[torch.randperm(len(indices), generator=generator)[:count].to(indices.device)]


def choose_numpy(indices, count, generator):
    """Return the same indices as :func:`choose`, of and as a numpy array."""
    if len(indices) <= count:
        return indices
    return indices[torch.randperm(len(indices), generator=generator).numpy()[:count]]
