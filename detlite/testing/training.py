"""Check the parts that train the weights: optimizers, schedules and hooks."""

import copy
import math
import tempfile
from pathlib import Path

import torch
from torch import nn

from detlite.checkpoint import load_checkpoint, save_checkpoint
from detlite.engine.trainer import Trainer
from detlite.modeling.precision import allowing_tf32
from detlite.registry import HOOKS, LR_SCHEDULERS, OPTIMIZERS
from detlite.seeding import torch_seeded
from detlite.testing.contract import Case, copied, noise, same

MOMENTS = ("before_train", "before_step", "after_step", "after_failure", "after_train", "record")


class TinyModel(nn.Module):
    """A model like a detector, with a normalization, a frozen and a shared layer."""

    def __init__(self):
        super().__init__()
        with torch_seeded(0):
            self.first, self.norm, self.frozen = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6)
        self.frozen.requires_grad_(False)
        self.shared = self.first

    def forward(self, images, targets=None):
        """Return {"loss": scalar}."""
        hidden = self.shared(self.norm(self.frozen(self.first(torch.stack(images)))))
        return {"loss": (hidden - 1).square().mean()}


@allowing_tf32(False)
def check_optimizer(build: object) -> None:
    """Raise a ContractError unless an optimizer keeps the contract of ``OPTIMIZERS``.

    ``build`` is its class, or a function that builds one from a model: ``check_optimizer(MySGD)``.
    """
    model = TinyModel()
    case = Case(OPTIMIZERS, build, "the trainable parameters", model=model)
    optimizer = case.run()
    case.require(isinstance(optimizer, torch.optim.Optimizer), "a torch.optim.Optimizer", type(optimizer).__name__)

    # Each trainable parameter is in one group.
    names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
    got = []
    for group in optimizer.param_groups:
        got += [names.get(parameter, "a frozen parameter or another model's") for parameter in group["params"]]
        has_initial_lr = group.get("initial_lr") == group["lr"]
        case.require(has_initial_lr, 'in each group "initial_lr", equal to "lr"', f"{group.keys()}")
    wanted = sorted(names.values())
    case.require(sorted(got) == wanted, f"each trainable parameter once: {wanted}", sorted(got))

    # Two steps change every trainable parameter.
    before = copied(dict(model.named_parameters()))
    with case.watch():
        for _ in range(2):
            _step(model, optimizer)
    for name, parameter in model.named_parameters():
        case.require(bool(parameter.isfinite().all()), f"{name} finite after a step", parameter)
        if parameter.requires_grad:
            case.require(not torch.equal(parameter, before[name]), f"{name} changed by a step", "the same numbers")

    # An optimizer with the loaded state takes the same next step.
    other = TinyModel()
    other.load_state_dict(model.state_dict())
    case = Case(OPTIMIZERS, build, "resuming from a saved state")
    with case.watch():
        second = build(other)
        second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        _step(model, optimizer)
        _step(other, second)
    equal = same(dict(model.state_dict()), dict(other.state_dict()))
    case.require(equal, "the same weights as without saving and loading", "different weights")


def _step(model, optimizer):
    optimizer.zero_grad()
    model(list(noise(4, 6)))["loss"].backward()
    optimizer.step()


def check_lr_scheduler(schedule: object, max_iter: int) -> None:
    """Raise a ContractError unless a part keeps the contract of ``LR_SCHEDULERS``.

    It is built with ``max_iter``, the number of steps of the run.
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

    # A resumed run asks for later steps first.
    backwards = [schedule(step) for step in reversed(range(max_iter))]
    case.repeats(factors, backwards[::-1], "the same factors in any order of steps, as a run may be resumed")


def check_hook(build: object) -> None:
    """Raise a ContractError unless a hook keeps the contract of ``HOOKS``.

    ``build`` is its class, or a function that builds one from a trainer: ``check_hook(MyHook)``.
    """
    for clause, start, steps in (("a whole run", 0, 3), ("a resumed run", 2, 3), ("a run of no steps", 0, 0)):
        model = TinyModel()
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD([{"params": trainable, "lr": 0.1, "initial_lr": 0.1}], lr=0.1)
        batch = list(noise(2, 6)), [{}, {}]
        trainer = Trainer(model, optimizer, lambda step: 1.0, [batch] * steps, max_iter=steps, start=start)

        # A misspelled method would never be called.
        case = Case(HOOKS, build, clause, trainer=trainer)
        hook = case.run()
        methods = {name for name in dir(hook) if name.startswith(("before_", "after_", "record"))}
        case.require(methods & set(MOMENTS), f"one of {', '.join(MOMENTS)}", sorted(methods))
        case.require(methods <= set(MOMENTS), f"no moments but {', '.join(MOMENTS)}", sorted(methods))

        # The hook's state must travel through a checkpoint.
        trainer.hooks = [hook]
        with case.watch(), tempfile.TemporaryDirectory() as folder:
            trainer.folder = Path(folder)
            trainer.train()
            trainer.record({"loss": 0.5, "bbox": {"AP": None}})
            save_checkpoint(trainer.state_dict(), trainer.folder / "state.pth")
            trainer.load_state_dict(load_checkpoint(trainer.folder / "state.pth"))
        trained = trainer.steps_done == steps or trainer.stopped
        case.require(trained, f"{steps} steps done, or stopped", f"{trainer.steps_done} steps")
