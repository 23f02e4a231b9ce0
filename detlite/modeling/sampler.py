"""Samplers: the choice of matched boxes to train on.

All samplers take labels (R,) int64 (1 positive, 0 negative, others are never sampled) and a CPU torch.Generator, or
None for torch's default generator. They return (positive, negative), int64 indices into the labels.
"""

import torch

from detlite.registry import SAMPLERS
from detlite.signature import accepts


def sample(sampler, labels, generator, losses):
    """Call a part of SAMPLERS, with ``losses``, () -> (R,), if it accepts them."""
    if accepts(sampler, "losses"):
        return sampler(labels, generator, losses)
    return sampler(labels, generator)


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


@SAMPLERS.register()
class AllSampler:
    """All positive and all negative boxes, as Lin et al. 2017 with the focal loss."""

    def __call__(self, labels, generator=None):
        """Return all positive and all negative boxes of labels (R,)."""
        return (labels == 1).nonzero().flatten(), (labels == 0).nonzero().flatten()


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
