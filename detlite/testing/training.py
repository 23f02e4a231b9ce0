"""Checks of what moves the weights: optimizers, schedules and hooks."""

import copy
import math
import tempfile
from pathlib import Path

import torch
from torch import nn

from detlite.checkpoint import load_checkpoint, save_checkpoint
from detlite.engine.trainer import Trainer
from detlite.registry import HOOKS, LR_SCHEDULERS, OPTIMIZERS
from detlite.seeding import torch_seeded
from detlite.testing.contract import Case, noise, same

MOMENTS = ("before_train", "before_step", "after_step", "after_failure", "after_train", "record")


class TinyModel(nn.Module):
    """Weights, biases, a normalization, a layer used twice, and one that is frozen; with the face of a detector."""

    def __init__(self):
        super().__init__()
        with torch_seeded(0):
            self.first, self.norm, self.frozen = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6)
        self.frozen.requires_grad_(False)
        self.shared = self.first

    def forward(self, images, targets=None):
        """{"loss": scalar}."""
        hidden = self.shared(self.norm(self.frozen(self.first(torch.stack(images)))))
        return {"loss": (hidden - 1).square().mean()}


def check_optimizer(build):
    """Whether an optimizer keeps the contract of ``OPTIMIZERS``.

    Args:
        build: its class or function, or anything else that builds one from a model: ``check_optimizer(MySGD)``.

    Raises:
        ContractError: it does not.
    """
    model = TinyModel()
    case = Case(OPTIMIZERS, build, "the trainable parameters", model=model)
    optimizer = case.run()
    case.require(isinstance(optimizer, torch.optim.Optimizer), "a torch.optim.Optimizer", type(optimizer).__name__)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = {parameter: name for name, parameter in model.named_parameters()}
    wanted = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    got = sorted(names.get(parameter, "one of another model") for parameter in held)
    case.require(got == sorted(wanted), f"each trainable parameter once: {sorted(wanted)}", got)
    for group in optimizer.param_groups:
        case.require(
            group.get("initial_lr") == group["lr"], 'in each group "initial_lr", equal to "lr"', f"{group.keys()}"
        )
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with case.watch():
        for _ in range(2):
            optimizer.zero_grad()
            model(list(noise(4, 6)))["loss"].backward()
            optimizer.step()
    for name, parameter in model.named_parameters():
        case.require(bool(parameter.isfinite().all()), f"{name} finite after a step", parameter)
        if parameter.requires_grad:
            case.require(not torch.equal(parameter, before[name]), f"{name} moved by a step", "the same numbers")
    other = TinyModel()
    other.load_state_dict(model.state_dict())
    case = Case(OPTIMIZERS, build, "going on from a saved state")
    with case.watch():
        second = build(other)
        second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for net, moved_by in ((model, optimizer), (other, second)):
            net.zero_grad()
            net(list(noise(4, 6)))["loss"].backward()
            moved_by.step()
    equal = same(dict(model.state_dict()), dict(other.state_dict()))
    case.require(equal, "the weights that the optimizer itself goes on to", "others")


def check_lr_scheduler(schedule, max_iter):
    """Whether a schedule keeps the contract of ``LR_SCHEDULERS``.

    Args:
        schedule: built with this number.
        max_iter: steps of the run.

    Raises:
        ContractError: it does not.
    """
    factors = []
    for step in range(max_iter):
        case = Case(LR_SCHEDULERS, schedule, "the factor of a step", step=step)
        factor = case.run()
        number = isinstance(factor, (int, float)) and math.isfinite(factor) and factor >= 0
        case.require(number, "a finite number, not negative", factor)
        factors.append(factor)
    case = Case(LR_SCHEDULERS, schedule, "all steps", max_iter=max_iter)
    case.require(any(factors), "factors that are not all 0", factors)
    backwards = [schedule(step) for step in reversed(range(max_iter))]
    case.repeats(factors, backwards[::-1], "the same, whatever steps were asked for before: a run may be resumed")


def check_hook(build):
    """Whether a hook keeps the contract of ``HOOKS``.

    Args:
        build: its class, or anything else that builds one from a trainer: ``check_hook(MyHook)``.

    Raises:
        ContractError: it does not.
    """
    for clause, start, steps in (("a whole run", 0, 3), ("a resumed run", 2, 3), ("a run of no steps", 0, 0)):
        model = TinyModel()
        groups = [{"params": [p for p in model.parameters() if p.requires_grad], "lr": 0.1, "initial_lr": 0.1}]
        batch = list(noise(2, 6)), [{}, {}]
        optimizer = torch.optim.SGD(groups, lr=0.1)
        trainer = Trainer(model, optimizer, lambda step: 1.0, [batch] * steps, max_iter=steps, start=start)
        case = Case(HOOKS, build, clause, trainer=trainer)
        hook = case.run()
        own = [name for name in dir(hook) if name.startswith(("before_", "after_", "record"))]
        case.require(set(own) & set(MOMENTS), f"one of {', '.join(MOMENTS)}", own)
        case.require(set(own) <= set(MOMENTS), f"no moments but {', '.join(MOMENTS)}", own)
        trainer.hooks = [hook]
        with case.watch(), tempfile.TemporaryDirectory() as folder:
            trainer.folder = Path(folder)
            trainer.train()
            trainer.record({"loss": 0.5, "bbox": {"AP": None}})
            save_checkpoint(trainer.state_dict(), trainer.folder / "state.pth")
            trainer.load_state_dict(load_checkpoint(trainer.folder / "state.pth"))
        trained = trainer.steps_done == steps or trainer.stopped
        case.require(trained, f"{steps} steps done, or stopped", f"{trainer.steps_done} steps")
