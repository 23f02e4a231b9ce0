"""The error of a training step whose losses or gradients are not finite."""

import math

from detlite.errors import UserError


class NonFiniteError(UserError):
    """A step with losses or gradients that are not finite. The weights are unchanged.

    ``report`` has the step's values, for a JSON file. ``batch`` is {"images": ..., "targets": ...}. Both are None if
    only another process has a value that is not finite.

    Args:
        step: the step's number.
        lr: its learning rate.
        values: {name: float}, this process's losses of one pass, and perhaps the gradients' norm.
        suspects: targets of the images that the values come from.
        images, targets: the step's batch.
    """

    def __init__(self, step, lr, values, suspects, images, targets):
        self.report = self.batch = None
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            super().__init__(f"not finite at step {step}: a loss in another process")
            return
        ids = [target.get("image_id") for target in suspects]
        numbers = {name: format(value, ".6g") for name, value in values.items()}
        all_values = ", ".join(f"{name} {number}" for name, number in numbers.items())
        super().__init__(
            f"not finite at step {step}: {', '.join(bad)}, for the images {', '.join(map(str, ids))} "
            f"({all_values}; lr {lr:.3g}); a lower SOLVER.OPTIMIZER.LR, a longer warm-up or "
            "SOLVER.CLIP_GRADIENT_NORM may help"
        )
        self.report = {"step": step, "not_finite": bad, "values": numbers, "lr": lr, "image_ids": ids}
        self.batch = {"images": images, "targets": targets}
