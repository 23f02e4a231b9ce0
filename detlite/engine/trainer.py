"""The training loop."""

import logging
import math
import time

import torch

from detlite.engine import distributed
from detlite.errors import UserError
from detlite.seeding import derive_seed

logger = logging.getLogger("detlite")


class Trainer:
    """Runs a model over batches, one optimizer step after the other, with hooks around each.

    In a run of several processes each has a trainer, and they take every step together.

    Hooks may read ``step`` (counted from 0, the one that runs or has just run), ``steps_done``, ``losses`` (floats by
    name), ``lr``, ``bad_images`` (how many of the step's images had to be replaced), ``data_seconds`` and
    ``step_seconds``, and may set ``stopped`` to end the training after the step.

    Args:
        model: a detector with torchvision's face, on its device.
        optimizer: over its parameters; each group has "initial_lr".
        lr_schedule: step -> factor on "initial_lr".
        batches: iterable of (images, targets), this process's share of the steps' images; the first one is that of
            ``start``.
        max_iter: steps in all.
        start: the first step; above 0 when resuming.
        accumulation: passes that a share is divided into.
        clip_gradient_norm: limit on the norm of all gradients together; 0 for none.
        seed: what random draws follow from.
    """

    def __init__(
        self,
        model,
        optimizer,
        lr_schedule,
        batches,
        *,
        max_iter,
        start=0,
        accumulation=1,
        clip_gradient_norm=0.0,
        seed=0,
    ):
        self.model = model
        self.parallel = distributed.parallel(model)
        is_fp16 = getattr(model, "precision", "fp32") == "fp16"
        self.scaler = torch.amp.GradScaler(next(model.parameters()).device.type, enabled=is_fp16)
        if (
            is_fp16
        ):  # else torch's fused SGD leaves a first step out itself, and goes on with momentum never initialized
            optimizer._step_supports_amp_scaling = False
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule
        self.batches = batches
        self.max_iter = max_iter
        self.start = self.step = self.steps_done = start
        self.accumulation = accumulation
        self.clip_gradient_norm = clip_gradient_norm
        self.seed = seed
        self.hooks = []
        self.stopped = False

    def train(self):
        """Run all steps."""
        self.model.train()
        self._call("before_train")
        batches = iter(self.batches)
        for step in range(self.start, self.max_iter):
            self.step = step
            self._call("before_step")
            begin = time.perf_counter()
            images, targets = next(batches)
            self.data_seconds = time.perf_counter() - begin
            self.bad_images = distributed.total(getattr(self.batches, "bad_images", 0))
            self.run_step(images, targets)
            self.steps_done = step + 1
            self.step_seconds = time.perf_counter() - begin
            self._call("after_step")
            if distributed.anywhere(self.stopped):
                break
        self._call("after_train")

    def run_step(self, images, targets):
        """One step: forward and backward in ``accumulation`` parts, then the optimizer."""
        # Dropout follows from seed, step and process, also after a resume.
        torch.manual_seed(derive_seed(self.seed, self.step, distributed.rank()))
        self.lr = self._set_lr(self.lr_schedule(self.step))
        sums = {}
        for part in range(self.accumulation):
            with distributed.averaging(self.parallel, part == self.accumulation - 1):
                losses = self.parallel(images[part :: self.accumulation], targets[part :: self.accumulation])
                loss = sum(losses.values()) / self.accumulation
                for name, value in distributed.mean({n: value.item() for n, value in losses.items()}).items():
                    sums[name] = sums.get(name, 0.0) + value / self.accumulation
                if not math.isfinite(sum(sums.values())):
                    raise UserError(
                        f"the loss is not finite at step {self.step}: {sums}; a lower SOLVER.OPTIMIZER.LR may help"
                    )
                self.scaler.scale(loss).backward()
        if self.clip_gradient_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_gradient_norm)
        self._update()
        self.losses = sums

    def _update(self):
        """The optimizer's step, left out where gradients overflowed fp16: the next step tries a smaller scale."""
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.scaler.get_scale() < scale:
            logger.info(
                "step %d left out: its gradients overflowed fp16; their scale is now %g",
                self.step + 1,
                self.scaler.get_scale(),
            )

    def _set_lr(self, factor):
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return self.optimizer.param_groups[0]["lr"]

    def _call(self, moment):
        for hook in self.hooks:
            getattr(hook, moment, lambda: None)()
