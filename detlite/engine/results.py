"""The result of a training step: its numbers, or the error that they are not finite."""

import math
from typing import NamedTuple

from detlite.errors import UserError


class StepResult(NamedTuple):
    """One step of a training, as the hooks' ``after_step`` receives it."""

    step: int  # the step's number, from 0
    losses: dict  # {name: float}, means over the passes and the processes
    statistics: dict  # {name: (sum, count)}, see :func:`~detlite.engine.averages.collect_statistics`
    gradient_norm: float  # norm of all gradients together, before clipping
    lr: float  # learning rate of the first parameter group
    targets: list  # targets of this process's images
    bad_images: int = 0  # number of unreadable images that were replaced in this step, over all processes
    data_seconds: float = 0.0  # time that the step waited for its images
    seconds: float = 0.0  # time of the whole step


class NonFiniteError(UserError):
    """A step with losses or gradients that are not finite. The weights are unchanged.

    ``report`` has the step's values, for a JSON file. ``batch`` is {"images": ..., "targets": ...}. Both are None if
    only another process has a value that is not finite. ``suspects`` are the targets that ``values`` come from.
    """

    def __init__(self, step, lr, values, suspects, images, targets):
        self.report = self.batch = None
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            super().__init__(f"not finite at step {step}: a loss in another process")
            return
        ids = [target.get("image_id") for target in suspects]
        numbers = {name: format(value, ".6g") for name, value in values.items()}
        all_values = ", ".join(map(" ".join, numbers.items()))
        super().__init__(
            f"not finite at step {step}: {', '.join(bad)}, for the images {', '.join(map(str, ids))} "
            f"({all_values}; lr {lr:.3g}); a lower SOLVER.OPTIMIZER.LR, a longer warm-up or "
            "SOLVER.CLIP_GRADIENT_NORM may help"
        )
        self.report = {"step": step, "not_finite": bad, "values": numbers, "lr": lr, "image_ids": ids}
        self.batch = {"images": images, "targets": targets}
