"""How the learning rate changes from step to step."""

import bisect

from fvcore.common.param_scheduler import LinearParamScheduler

from detlite.registry import LR_SCHEDULERS


@LR_SCHEDULERS.register()
class MultiStepLR:
    """A rate that is multiplied by gamma at each of the given steps, after a linear warm-up.

    A border is exact: the step named in ``steps`` is the first with the new rate. (fvcore's MultiStepParamScheduler
    adds a millionth of the run to each position, a whole step in a run of a million; and it refuses steps beyond the
    end, which a trial run with a lower MAX_ITER has.)

    Args:
        steps: where the rate is multiplied, ascending; numbers below 1 are fractions of MAX_ITER. Those beyond MAX_ITER
            are never reached.
        gamma: the factor.
        warmup_iters: steps over which the rate first rises, in a straight line; 0 for no warm-up.
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
        """
        Args:
            max_iter: steps of the whole run.
        """
        self.steps = [round(step * max_iter) if step < 1 else step for step in steps]
        if any(step <= 0 or (step > 1 and step % 1 != 0) for step in steps):
            raise ValueError(
                f"steps must be whole numbers, or fractions of MAX_ITER between 0 and 1, got {list(steps)}"
            )
        if sorted(set(steps)) != list(steps) or sorted(self.steps) != self.steps:
            raise ValueError(f"steps must ascend, got {list(steps)} in {max_iter} iterations")
        if gamma <= 0:
            raise ValueError(f"gamma must be positive, got {gamma}")
        if warmup_iters < 0:
            raise ValueError(f"warmup_iters must not be negative, got {warmup_iters}")
        if not 0 <= warmup_factor <= 1:
            raise ValueError(f"warmup_factor must be from 0 to 1, got {warmup_factor}")
        self.gamma = gamma
        self.warmup_iters = warmup_iters
        self.warmup = LinearParamScheduler(warmup_factor, 1.0)

    def __call__(self, step):
        """The factor of the optimizer's learning rate at a step; the first step is 0."""
        factor = self.gamma ** bisect.bisect_right(self.steps, step)
        if step < self.warmup_iters:
            factor *= self.warmup(step / self.warmup_iters)
        return factor
