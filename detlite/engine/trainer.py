"""The training loop."""

import contextlib
import inspect
import logging
import math
import random
import time
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import torch
from torchvision.ops import FrozenBatchNorm2d

from detlite import distributed
from detlite.distributed.signals import StopSignals
from detlite.engine.averages import add_pairs, collect_statistics, to_floats
from detlite.errors import UserError
from detlite.modeling.precision import backward_context
from detlite.seeding import derive_seed
from detlite.solver import restore_optimizer

logger = logging.getLogger("detlite")

MEMORY_REMEDY = "Raise SOLVER.ACCUMULATION, lower SOLVER.BATCH_SIZE or the image size, or set MODEL.PRECISION bf16."


class NonFiniteError(UserError):
    """A step with losses or gradients that are not finite. The weights are unchanged.

    Args:
        message: the values that are not finite, and the images.
        report: values of the step, for a JSON file; None if all values of this process are finite.
        batch: the step's images and targets; None if ``report`` is None.
    """

    def __init__(self, message, report, batch):
        super().__init__(message)
        self.report = report
        self.batch = batch


class StepResult(NamedTuple):
    """One step of a training, as the hooks' ``after_step`` receives it.

    Attributes:
        step: the step's number, from 0.
        losses: {name: float}, means over the passes and the processes.
        statistics: {name: (sum, count)}, see :func:`~detlite.engine.averages.collect_statistics`.
        gradient_norm: norm of all gradients together, before clipping.
        lr: learning rate of the first parameter group.
        targets: targets of this process's images.
        bad_images: number of unreadable images that were replaced in this step, over all processes.
        data_seconds: time that the step waited for its images.
        seconds: time of the whole step.
    """

    step: int
    losses: dict
    statistics: dict
    gradient_norm: float
    lr: float
    targets: list
    bad_images: int = 0
    data_seconds: float = 0.0
    seconds: float = 0.0


class Trainer:
    """Runs a model over batches, one optimizer step after the other, with hooks around each step.

    With several processes, each has a trainer, and all run the same step at the same time.

    Hooks may read ``step`` (number of the current or last step, from 0), ``steps_done``, ``max_iter`` and ``result``,
    the last step's :class:`StepResult`. Its losses, statistics, lr and targets are also attributes of the trainer. A
    hook may set ``stopped`` to end the training after the step. ``interrupted`` is true if a signal ended the training
    early. ``folder`` is OUTPUT_DIR. The registry ``HOOKS`` lists the methods of a hook.

    Args:
        model: a detector with torchvision's interface, on its device.
        optimizer: optimizer of its parameters; each group has "initial_lr".
        lr_schedule: function of the step that returns a factor on "initial_lr".
        batches: iterable of this process's (images, targets) of each step, beginning with step ``start``.
        max_iter: total number of steps.
        start: the first step; above 0 when resuming.
        accumulation: number of forward and backward passes per step; each takes an equal part of the images.
        clip_gradient_norm: limit on the norm of all gradients together; 0 for none.
        seed: seed of the random draws.
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

        # Fused SGD can skip a step that overflows in fp16 itself. If that is the first step, its momentum is never
        # initialized. With False, the scaler skips the step.
        is_fp16 = getattr(model, "precision", "fp32") == "fp16"
        self.scaler = torch.amp.GradScaler(next(model.parameters()).device.type, enabled=is_fp16)
        if is_fp16:
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
        self.result = None
        self.stopped = self.interrupted = False
        self.signals = StopSignals()

    # trainer.losses is trainer.result.losses, and so on: hooks read the last step's numbers.
    losses = property(attrgetter("result.losses"))
    statistics = property(attrgetter("result.statistics"))
    lr = property(attrgetter("result.lr"))
    targets = property(attrgetter("result.targets"))

    def train(self):
        """Run the remaining steps.

        Raises:
            NonFiniteError: a loss or the gradients' norm is not finite.
            KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came. The step was finished and the hooks called as usual.
        """
        self.model.train()
        with self.signals:
            self._call("before_train")
            batches = iter(self.batches)
            try:
                while not self._must_stop() and self.steps_done < self.max_iter:
                    self.step = self.steps_done
                    self._call("before_step")
                    begin = time.perf_counter()
                    with self._undo_on_error():
                        images, targets = next(batches)
                        data_seconds = time.perf_counter() - begin
                        bad_images = distributed.total(getattr(self.batches, "bad_images", 0))
                        result = self.compute_gradients(images, targets)
                    self.update_weights()
                    self.steps_done += 1
                    seconds = time.perf_counter() - begin
                    self.result = result._replace(bad_images=bad_images, data_seconds=data_seconds, seconds=seconds)
                    self._call("after_step", self.result)
            finally:
                if hasattr(batches, "close"):
                    batches.close()  # stops the loader's workers
            self._call("after_train")
        if self.interrupted or self.signals.received:
            self.signals.raise_stop()

    def compute_gradients(self, images, targets):
        """Leave the current step's gradients in the parameters, by ``accumulation`` forward and backward passes.

        Return the :class:`StepResult`, still without times. Raise a NonFiniteError if a loss or the norm is not finite.
        """
        # Seed all generators from seed, step and process. A resumed run then draws the same dropout masks.
        seed = derive_seed(self.seed, self.step, distributed.rank())
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        lr = self._set_lr(self.lr_schedule(self.step))

        # Pass i takes the images i, i + accumulation, … The processes average their gradients in the last pass.
        parts = [slice(number, None, self.accumulation) for number in range(self.accumulation)]
        all_losses, all_statistics = [], []
        for part in parts:
            with distributed.averaging(self.parallel, part is parts[-1]):
                all_losses.append(self.parallel(images[part], targets[part]))
                with backward_context(self.model):
                    self.scaler.scale(sum(all_losses[-1].values()) / self.accumulation).backward()
            all_statistics.append(collect_statistics(self.model))
        distributed.check_trained(self.model)
        self.scaler.unscale_(self.optimizer)
        norm = self._clip_gradients()

        # The only wait for the device: all numbers of the step come in one transfer.
        all_losses, all_statistics, norm = to_floats((all_losses, all_statistics, norm))
        losses, statistics = {}, {}
        for part, own, pairs in zip(parts, all_losses, all_statistics, strict=True):
            means = distributed.mean(own)
            if not math.isfinite(sum(means.values())):
                raise _non_finite(self.step, lr, own, targets[part], images, targets)
            for name, value in means.items():
                losses[name] = losses.get(name, 0.0) + value / self.accumulation
            add_pairs(statistics, pairs)

        # With fp16, the scaler finds overflowed gradients and skips the step, so the norm may be infinite.
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            raise _non_finite(self.step, lr, {**own, "gradient norm": norm}, targets, images, targets)
        return StepResult(self.step, losses, statistics, norm, lr, targets)

    def update_weights(self):
        """Update the weights. If gradients overflowed in fp16, skip the update and reduce the loss scale."""
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.scaler.get_scale() < scale:  # it falls only if the step was skipped
            text = "step %d skipped: its gradients overflowed in fp16; the loss scale is now %g"
            logger.info(text, self.step + 1, self.scaler.get_scale())

    def record(self, values):
        """Send one line of metrics, {name: number, or dict of numbers}, to the hooks."""
        line = {"step": self.steps_done, **values}
        for hook in self.hooks:
            if hasattr(hook, "record"):
                hook.record(line)

    def state_dict(self):
        """Return everything that the rest of the training depends on, except the config."""
        hooks = {name: hook.state_dict() for name, hook in self._named_hooks() if hasattr(hook, "state_dict")}
        return {
            "step": self.steps_done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "hooks": hooks,
            "threads": torch.get_num_threads(),
        }

    def load_state_dict(self, state):
        """Restore what :meth:`state_dict` returned. A hook without a saved state keeps its initial state.

        Raises:
            KeyError, RuntimeError, ValueError: the state does not fit this model or optimizer.
        """
        self.model.load_state_dict(state["model"])
        restore_optimizer(self.optimizer, state["optimizer"])
        if state["scaler"] and self.scaler.is_enabled():  # it is empty if it was saved without fp16
            self.scaler.load_state_dict(state["scaler"])
        self.start = self.step = self.steps_done = state["step"]
        for name, hook in self._named_hooks():
            if name in state["hooks"] and hasattr(hook, "load_state_dict"):
                hook.load_state_dict(state["hooks"][name])

    @contextlib.contextmanager
    def _undo_on_error(self):
        """If the block fails, restore the buffers, drop the gradients and call the hooks' ``after_failure``."""
        # Only layers in training mode change their buffers: BatchNorm's statistics. A frozen ResNet-50 has 200 others.
        buffers = []
        for layer in self.model.modules():
            if layer.training and not isinstance(layer, FrozenBatchNorm2d):
                buffers += layer.buffers(recurse=False)
        copies = [buffer.clone() for buffer in buffers]
        try:
            yield
        except Exception as error:
            with torch.no_grad():
                for buffer, copy in zip(buffers, copies, strict=True):
                    buffer.copy_(copy)
            self.optimizer.zero_grad()
            self._call("after_failure", error)
            if isinstance(error, torch.OutOfMemoryError):
                raise UserError(f"{str(error).splitlines()[0]} {MEMORY_REMEDY}") from error
            raise

    def _must_stop(self):
        """Return whether to stop now: in any process, a signal arrived or a hook set ``stopped``."""
        own = {"interrupted": float(self.signals.received is not None), "stopped": float(self.stopped)}
        fractions = distributed.mean(own)  # fraction of the processes in which each is true
        self.interrupted = fractions["interrupted"] > 0
        return self.interrupted or fractions["stopped"] > 0

    def _set_lr(self, factor):
        """Set the learning rates, and return the first parameter group's. Raise a UserError if the factor is NaN."""
        if not 0 <= factor < math.inf:
            name = type(self.lr_schedule).__name__
            expected = "expected a finite factor of at least 0"
            raise UserError(f"SOLVER.LR_SCHEDULER: {name} returned {factor} at step {self.step}; {expected}")
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return self.optimizer.param_groups[0]["lr"]

    def _clip_gradients(self):
        """Limit the gradients' norm to ``clip_gradient_norm``. Return the norm before clipping."""
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clip_gradient_norm:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.clip_gradient_norm, norm)
        return norm

    def _named_hooks(self):
        """Yield (name, hook). The name is the class's name; further hooks of a class get _2, _3, …"""
        counts = {}
        for hook in self.hooks:
            name = type(hook).__name__
            counts[name] = counts.get(name, 0) + 1
            yield (name if counts[name] == 1 else f"{name}_{counts[name]}"), hook

    def _call(self, moment, *arguments):
        """Call a method of each hook that has it. ``after_step`` may be defined with or without its parameter."""
        for hook in self.hooks:
            method = getattr(hook, moment, None)
            if method and moment == "after_step" and not inspect.signature(method).parameters:
                method()
            elif method:
                method(*arguments)


def _non_finite(step, lr, values, suspects, images, targets):
    """Build the NonFiniteError of a step. The bad value may be in this process or in another.

    Args:
        step: the step's number.
        lr: its learning rate.
        values: {name: float}, losses of the last pass, and perhaps the gradients' norm.
        suspects: targets of the images that may have caused it.
        images, targets: the step's batch.
    """
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if not bad:
        return NonFiniteError(f"not finite at step {step}: a loss in another process", None, None)
    ids = [target.get("image_id") for target in suspects]
    numbers = {name: format(value, ".6g") for name, value in values.items()}
    words = [f"{name} {number}" for name, number in numbers.items()]
    message = (
        f"not finite at step {step}: {', '.join(bad)}, for the images {', '.join(map(str, ids))} "
        f"({', '.join(words)}; lr {lr:.3g}); a lower SOLVER.OPTIMIZER.LR, a longer warm-up or "
        "SOLVER.CLIP_GRADIENT_NORM may help"
    )
    report = {"step": step, "not_finite": bad, "values": numbers, "lr": lr, "image_ids": ids}
    return NonFiniteError(message, report, {"images": images, "targets": targets})
