"""The training loop."""

import contextlib
import inspect
import logging
import math
import numbers
import sys
import threading
import time

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.ops import FrozenBatchNorm2d

from detlite import distributed
from detlite.distributed.watch import called_before_end
from detlite.engine.averages import add_pairs, collect_statistics, numbered, to_floats
from detlite.engine.results import NonFiniteError, StepResult
from detlite.errors import UserError, shortened
from detlite.guard import checking_parts
from detlite.modeling.precision import backward_context
from detlite.seeding import derive_seed, seed_all
from detlite.signals import StopSignals
from detlite.solver import restore_optimizer

logger = logging.getLogger("detlite")

MEMORY_REMEDY = "Raise SOLVER.ACCUMULATION, lower SOLVER.BATCH_SIZE or the image size, or set MODEL.PRECISION bf16."


class Trainer:
    """Runs a model over batches, one optimizer step after the other, with hooks around each step.

    With several processes, each has a trainer, and all run the same step at the same time.

    The registry ``HOOKS`` lists the methods of a hook. Hooks may read these attributes, and set ``stopped``:

    - ``step``: the number of the current or last step, from 0; ``steps_done`` and ``max_iter``.
    - ``result``: the last step's :class:`~detlite.engine.results.StepResult`.
    - ``stopped``: true ends the training after the step; ``interrupted``: a signal ended the training early.
    - ``folder``: OUTPUT_DIR.
    - ``evaluated_model``: the model to evaluate and to save: ``model``, or the average of its weights.

    Args:
        model: a detector with torchvision's interface, on its device.
        optimizer: optimizer of its parameters; each group has "initial_lr".
        lr_schedule: function of the step that returns a factor on "initial_lr".
        batches: iterable of this process's (images, targets) of each step, beginning with step ``start``.
        max_iter: total number of steps.
        start: the first step; above 0 when resuming.
        accumulation, clip_gradient_norm, ema_decay, seed: see the keys of SOLVER, and SEED.
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
        ema_decay=0.0,
        seed=0,
    ):
        self.model = model
        # The average takes over the weights after the first step, and the buffers after each step.
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema_decay)) if ema_decay else None
        self.parallel = distributed.parallel(model)

        # If gradients overflow in fp16, the scaler must skip the step. Fused SGD can skip it too, but then it never
        # initializes its momentum if that is the first step.
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
        self.changing = threading.Lock()  # held while a step's end changes the state
        self.undo = lambda: None  # restores the state before the step

    @property
    def evaluated_model(self):
        """The average of the model's weights, or without one, the model."""
        return self.average.module if self.average else self.model

    def train(self):
        """Run the remaining steps.

        Raises:
            NonFiniteError: a loss or the gradients' norm is not finite.
            KeyboardInterrupt, SystemExit: a stop signal came. The step was finished and the hooks called as usual.
        """
        self.model.train()
        with called_before_end(self.save_from_outside), self.signals:
            with self.changing:
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
                        with distributed.waiting(), checking_parts(self.step == self.start):
                            result = self.compute_gradients(images, targets)
                    with self.changing:
                        self.update_weights()
                        self.steps_done += 1
                        seconds = time.perf_counter() - begin
                        times = {"data_seconds": data_seconds, "seconds": seconds}
                        self.result = result._replace(bad_images=bad_images, **times)
                        self._call("after_step", self.result)
            finally:
                if hasattr(batches, "close"):
                    batches.close()  # stops the loader's workers
            with self.changing:
                self._call("after_train")
        if self.interrupted or self.signals.received:
            self.signals.raise_stop()

    def compute_gradients(self, images, targets):
        """Compute the current step's gradients by ``accumulation`` passes, and return its StepResult without times."""
        seed_all(derive_seed(self.seed, self.step, distributed.rank()))  # a resumed run draws the same dropout masks
        lr = self._set_lr(self.lr_schedule(self.step))

        # Pass i takes the images i, i + accumulation, … The processes average their gradients in the last pass.
        parts = [slice(number, None, self.accumulation) for number in range(self.accumulation)]
        all_losses, all_statistics = [], []
        for part in parts:
            is_last = part is parts[-1]
            with distributed.averaging(self.parallel, is_last):
                losses = self.parallel(images[part], targets[part])
                with backward_context(self.model):
                    self.scaler.scale(sum(losses.values()) / self.accumulation).backward()
            all_losses.append(losses)
            all_statistics.append(collect_statistics(self.model))
        distributed.check_trained(self.model)
        self.scaler.unscale_(self.optimizer)

        # Clip the gradients. ``norm`` is their norm before.
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clip_gradient_norm:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.clip_gradient_norm, norm)

        # The only wait for the device: all numbers of the step come in one transfer.
        all_losses, all_statistics, norm = to_floats((all_losses, all_statistics, norm))
        losses, statistics = {}, {}
        for part, part_losses, pairs in zip(parts, all_losses, all_statistics, strict=True):
            means = distributed.mean(part_losses)
            if not math.isfinite(sum(means.values())):
                raise NonFiniteError(self.step, lr, part_losses, targets[part], images, targets)
            for name, value in means.items():
                losses[name] = losses.get(name, 0.0) + value / self.accumulation
            add_pairs(statistics, pairs)

        # With fp16, the scaler finds overflowed gradients and skips the step, so the norm may be infinite.
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            values = {**all_losses[-1], "gradient norm": norm}
            raise NonFiniteError(self.step, lr, values, targets, images, targets)
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
        if self.average:
            self.average.update_parameters(self.model)

    def save_from_outside(self, reason):
        """Save the state before the step in progress, from another thread. Return the end of a message about it."""
        self.changing.acquire()
        self.undo()
        self._call("after_failure", UserError(reason))
        return "; the state before it is saved, and --resume continues from there"

    @contextlib.contextmanager
    def unchanging(self):
        """Let a block in a hook, such as an evaluation, be a moment to save the state from outside."""
        self.changing.release()
        try:
            yield
        finally:
            self.changing.acquire()

    def record(self, values):
        """Send one line of metrics, {name: number, or dict of numbers}, to the hooks."""
        for hook in self.hooks:
            if hasattr(hook, "record"):
                hook.record({"step": self.steps_done, **values})

    def state_dict(self):
        """Return everything that the rest of the training depends on, except the config."""
        hooks = {name: hook.state_dict() for name, hook in self._named_hooks().items() if hasattr(hook, "state_dict")}
        average = {"average": self.average.state_dict()} if self.average else {}
        return {
            "step": self.steps_done,
            "model": self.model.state_dict(),
            **average,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "hooks": hooks,
            "threads": torch.get_num_threads(),
        }

    def load_state_dict(self, state):
        """Restore what :meth:`state_dict` returned. A hook without a saved state keeps its initial state."""
        self.model.load_state_dict(state["model"])
        if self.average and "average" in state:
            self.average.load_state_dict(state["average"])
        elif self.average:  # EMA_DECAY is new
            self.average.module.load_state_dict(state["model"])
        restore_optimizer(self.optimizer, state["optimizer"])
        if state["scaler"] and self.scaler.is_enabled():  # it is empty if it was saved without fp16
            self.scaler.load_state_dict(state["scaler"])
        self.start = self.step = self.steps_done = state["step"]
        for name, hook in self._named_hooks().items():
            if name in state["hooks"] and hasattr(hook, "load_state_dict"):
                hook.load_state_dict(state["hooks"][name])

    @contextlib.contextmanager
    def _undo_on_error(self):
        """If the block fails, restore the buffers, drop the gradients and call the hooks' ``after_failure``."""
        # Only layers in training mode change their buffers. A frozen ResNet-50 has 200 that need no copy.
        copies = []
        for layer in self.model.modules():
            if layer.training and not isinstance(layer, FrozenBatchNorm2d):
                copies += [(buffer, buffer.clone()) for buffer in layer.buffers(recurse=False)]

        def undo():
            with torch.no_grad():
                for buffer, copy in copies:
                    buffer.copy_(copy)

        self.undo = undo
        try:
            yield
        except Exception as error:
            undo()
            self.optimizer.zero_grad()
            self._call("after_failure", error)
            if isinstance(error, torch.OutOfMemoryError):
                raise UserError(f"{str(error).splitlines()[0]} {MEMORY_REMEDY}") from error
            raise
        finally:
            self.undo = lambda: None

    def _must_stop(self):
        """Return whether to stop now: in any process, a signal arrived or a hook set ``stopped``."""
        flags = {"interrupted": float(self.signals.received is not None), "stopped": float(self.stopped)}
        means = distributed.mean(flags)  # over the processes; above 0 if the flag is true in any
        self.interrupted = means["interrupted"] > 0
        return self.interrupted or means["stopped"] > 0

    def _set_lr(self, factor):
        """Set the learning rates, and return the first group's. Raise a UserError if the factor is NaN or no number."""
        if not (isinstance(factor, numbers.Real) and 0 <= factor <= sys.float_info.max):
            found = f"{type(self.lr_schedule).__name__} returned {shortened(factor)} at step {self.step}"
            raise UserError(f"SOLVER.LR_SCHEDULER: {found}; expected a finite factor of at least 0")
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return self.optimizer.param_groups[0]["lr"]

    def _named_hooks(self):
        """Return the hooks by the names of their classes."""
        return numbered((type(hook).__name__, hook) for hook in self.hooks)

    def _call(self, moment, *arguments):
        """Call a method of each hook that has it. ``after_step`` may be defined with or without its parameter."""
        for hook in self.hooks:
            method = getattr(hook, moment, None)
            if method and moment == "after_step" and not inspect.signature(method).parameters:
                method()
            elif method:
                method(*arguments)
