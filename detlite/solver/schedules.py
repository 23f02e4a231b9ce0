"""Schedules of the learning rate: a factor per step."""

import bisect
import math

from detlite.errors import require
from detlite.registry import LR_SCHEDULERS


@LR_SCHEDULERS.register()
class MultiStepLR:
    """A rate that is multiplied by gamma at given steps, after a linear warm-up.

    Each of ``steps`` is exactly the first step with the new rate.

    Args:
        steps: steps at which the rate is multiplied, ascending; numbers below 1 are fractions of MAX_ITER. Steps beyond
            MAX_ITER are never reached.
        gamma: the factor.
        warmup_iters: steps over which the rate rises linearly at the beginning; 0 for no warm-up.
        warmup_factor: the rate of step 0, relative to the rate after the warm-up.

    >>> schedule = MultiStepLR(100, steps=[0.7, 90], gamma=0.5, warmup_iters=10, warmup_factor=0.0)
    >>> [schedule(step) for step in (0, 5, 10, 69, 70, 89, 90)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(
        self,
        max_iter,
        *,
        steps: list[float] = (50000,),
        gamma: float = 0.1,
        warmup_iters: int = 0,
        warmup_factor: float = 0.001,
    ):
        self.steps = [round(step * max_iter) if step < 1 else step for step in steps]
        for step in steps:
            is_step = 0 < step <= 1 or (step > 1 and step % 1 == 0)
            require(is_step, "steps must be whole numbers, or fractions of MAX_ITER below 1", list(steps))
        if sorted(set(steps)) != list(steps) or sorted(self.steps) != self.steps:
            raise ValueError(f"steps must ascend, got {list(steps)} in {max_iter} iterations")
        require(0 < gamma < math.inf, "gamma must be a number above 0", gamma)
        self.gamma = gamma
        self.warmup = _linear_warmup(warmup_iters, warmup_factor)

    def __call__(self, step):
        """Return the factor of the learning rate at a step, counted from 0."""
        return self.gamma ** bisect.bisect_right(self.steps, step) * self.warmup(step)


@LR_SCHEDULERS.register()
class CosineLR:
    """A rate that falls along half a cosine (Loshchilov and Hutter 2017).

    Args:
        final_factor: the rate at the end of the run, relative to the full rate.
        warmup_iters: steps over which the rate rises linearly at the beginning; 0 for no warm-up.
        warmup_factor: the rate of step 0, relative to the rate without warm-up.
    """

    def __init__(self, max_iter, *, final_factor: float = 0.0, warmup_iters: int = 0, warmup_factor: float = 0.001):
        require(0 <= final_factor <= 1, "final_factor must be from 0 to 1", final_factor)
        self.max_iter = max_iter
        self.final_factor = final_factor
        self.warmup = _linear_warmup(warmup_iters, warmup_factor)

    def __call__(self, step):
        """Return the factor of the learning rate at a step, counted from 0."""
        fall = 0.5 * (1.0 - self.final_factor) * (1 + math.cos(math.pi * (step / self.max_iter)))
        return (self.final_factor + fall) * self.warmup(step)


def _linear_warmup(iters, start):
    """Return (step) -> a factor that rises linearly from ``start`` to 1 at step ``iters``."""
    require(iters >= 0, "warmup_iters must not be negative", iters)
    require(0 <= start <= 1, "warmup_factor must be from 0 to 1", start)
    return lambda step: step / iters + start * (1 - step / iters) if step < iters else 1.0
