"""The training loop."""

import logging
import math
import random
import time

import numpy as np
import torch

from detlite import distributed
from detlite.distributed.signals import StopSignals
from detlite.engine.averages import add_pairs, collect_statistics, to_floats
from detlite.errors import UserError
from detlite.seeding import derive_seed

logger = logging.getLogger("detlite")


class NonFiniteError(UserError):
    """A step whose losses or gradients are not finite; nothing of it went into the weights.

    Args:
        message: which of them, in which images.
        report: what is known of the step, for a JSON file; None where another process of the run had them.
        batch: its images and targets, or None.
    """

    def __init__(self, message, report, batch):
        super().__init__(message)
        self.report = report
        self.batch = batch


class Trainer:
    """Runs a model over batches, one optimizer step after the other, with hooks around each.

    In a run of several processes each has a trainer, and they take every step together.

    Hooks may read ``step`` (counted from 0, the one that runs or has just run), ``steps_done``, ``losses`` (floats by
    name), ``statistics`` ({name: (sum, count)}), ``gradient_norm``, ``lr``, ``targets``, ``bad_images`` (how many of
    the step's images had to be replaced), ``data_seconds`` and ``step_seconds``, and may set ``stopped`` to end the
    training after the step. ``interrupted`` says that a signal ended it before its end; ``folder`` is OUTPUT_DIR. What
    hooks are called with stands at the registry ``HOOKS``.

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
        if is_fp16:  # else fused SGD leaves a first step out itself, and goes on with momentum never initialized
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
        self.folder = None
        self.stopped = self.interrupted = self.updating = False
        self.signals = StopSignals()

    def train(self):
        """Run all steps.

        Raises:
            KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came; the step was finished and hooks called as usual.
        """
        self.model.train()
        with self.signals:
            self._call("before_train")
            batches = iter(self.batches)
            try:
                while not self._must_stop() and self.steps_done < self.max_iter:
                    self._step(batches)
            finally:
                getattr(batches, "close", lambda: None)()  # ends a loader's workers
            self._call("after_train")
        if self.interrupted or self.signals.received:
            self.signals.raise_stop()

    def _step(self, batches):
        """A step, with what is around it."""
        self.step = self.steps_done
        self._call("before_step")
        begin = time.perf_counter()
        try:
            images, self.targets = next(batches)
            self.data_seconds = time.perf_counter() - begin
            self.bad_images = distributed.total(getattr(self.batches, "bad_images", 0))
            self.run_step(images, self.targets)
        except Exception as error:
            if not self.updating:  # else the weights may be half changed
                self._call("after_failure", error)
            raise
        self.steps_done += 1
        self.step_seconds = time.perf_counter() - begin
        self._call("after_step")

    def run_step(self, images, targets):
        """One step: forward and backward in ``accumulation`` parts, then the optimizer.

        Raises:
            NonFiniteError: a loss or the gradients' norm is not finite; the model is as it was before the step.
        """
        # Dropout follows from seed, step and process, also after a resume.
        seed = derive_seed(self.seed, self.step, distributed.rank())
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        self.lr = self._set_lr(self.lr_schedule(self.step))
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        try:
            self._compute_gradients(images, targets)
        except Exception:
            with torch.no_grad():
                for name, buffer in self.model.named_buffers():  # BatchNorm's statistics
                    buffer.copy_(buffers[name])
            self.optimizer.zero_grad()
            raise
        self.updating = True
        self._update()
        self.updating = False

    def _compute_gradients(self, images, targets):
        """Leave the step's gradients in the parameters, their norm, losses and statistics in this object."""
        self.losses, self.statistics = {}, {}
        for part in range(self.accumulation):
            part_targets = targets[part :: self.accumulation]
            with distributed.averaging(self.parallel, part == self.accumulation - 1):
                losses = self.parallel(images[part :: self.accumulation], part_targets)
                self.scaler.scale(sum(losses.values()) / self.accumulation).backward()
            own = to_floats(losses)
            means = distributed.mean(own)
            for name, value in means.items():
                self.losses[name] = self.losses.get(name, 0.0) + value / self.accumulation
            add_pairs(self.statistics, collect_statistics(self.model))
            if not math.isfinite(sum(means.values())):
                raise self._non_finite(own, images, targets, part_targets)
        distributed.check_trained(self.model)
        self.scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clip_gradient_norm:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.clip_gradient_norm, norm)
        self.gradient_norm = norm.item()
        if not math.isfinite(self.gradient_norm) and not self.scaler.is_enabled():  # which looks for it itself
            raise self._non_finite({**own, "gradient norm": self.gradient_norm}, images, targets, targets)

    def _non_finite(self, values, images, targets, suspects):
        """What is told and kept of a batch when values, {name: float}, or another process's are not finite.

        Args:
            values: losses of a pass, and perhaps the gradients' norm.
            images: of the batch.
            targets: of the batch.
            suspects: targets of the pass.
        """
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            return NonFiniteError(f"not finite at step {self.step}: a loss in another process", None, None)
        ids = [target.get("image_id") for target in suspects]
        shown = {name: format(value, ".6g") for name, value in values.items()}
        message = (
            f"not finite at step {self.step}: {', '.join(bad)}, for the images {', '.join(map(str, ids))} "
            f"({', '.join(map(' '.join, shown.items()))}; lr {self.lr:.3g}); a lower SOLVER.OPTIMIZER.LR, a longer "
            "warm-up or SOLVER.CLIP_GRADIENT_NORM may help"
        )
        report = {"step": self.step, "not_finite": bad, "values": shown, "lr": self.lr, "image_ids": ids}
        return NonFiniteError(message, report, {"images": images, "targets": targets})

    def record(self, values):
        """Hand a line of numbers, such as the losses of some steps or the results of a test, to the hooks.

        Args:
            values: {name: number, or dict of numbers}.
        """
        for hook in self.hooks:
            getattr(hook, "record", lambda line: None)({"step": self.steps_done, **values})

    def state_dict(self):
        """All that the training's future depends on, but its config."""
        return {
            "step": self.steps_done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "hooks": {name: hook.state_dict() for name, hook in self._named_hooks() if hasattr(hook, "state_dict")},
        }

    def load_state_dict(self, state):
        """Go on from where :meth:`state_dict` was called; hooks that were not there then begin anew.

        Raises:
            KeyError, RuntimeError, ValueError: it is the state of another model or optimizer.
        """
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.start = self.step = self.steps_done = state["step"]
        for name, hook in self._named_hooks():
            if name in state["hooks"] and hasattr(hook, "load_state_dict"):
                hook.load_state_dict(state["hooks"][name])

    def _named_hooks(self):
        """(name, hook): the class's name, with a number for the second and later of a class."""
        counts = {}
        for hook in self.hooks:
            name = type(hook).__name__
            counts[name] = counts.get(name, 0) + 1
            yield (name if counts[name] == 1 else f"{name}_{counts[name]}"), hook

    def _must_stop(self):
        """Whether the training ends here, in all processes: a hook has stopped it, or a signal interrupts it."""
        wishes = {"interrupted": self.signals.received is not None, "stopped": self.stopped}
        wishes = distributed.mean({name: float(wish) for name, wish in wishes.items()})
        self.interrupted = wishes["interrupted"] > 0
        return self.interrupted or wishes["stopped"] > 0

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

    def _call(self, moment, *arguments):
        for hook in self.hooks:
            getattr(hook, moment, lambda *arguments: None)(*arguments)
