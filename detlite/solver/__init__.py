"""Optimizers and schedules of the learning rate."""

from torch import nn, optim

from detlite.config import Config
from detlite.parts import import_modules
from detlite.registry import LR_SCHEDULERS, OPTIMIZERS
from detlite.solver.optimizers import SGD, AdamW
from detlite.solver.schedules import CosineLR, MultiStepLR

__all__ = [
    "SGD", "AdamW", "CosineLR", "MultiStepLR", "build_lr_scheduler", "build_optimizer", "lr_factor",
    "restore_optimizer",
]  # fmt: skip

import_modules(__name__)  # registers the parts of all modules


def build_optimizer(cfg: Config, model: nn.Module) -> optim.Optimizer:
    """Build the optimizer of ``cfg.SOLVER.OPTIMIZER``, with learning rates multiplied by :func:`lr_factor`.

    Each group remembers the settings that it was built with, for :func:`restore_optimizer`.
    """
    optimizer = OPTIMIZERS.build(cfg.SOLVER.OPTIMIZER, model)
    for group in optimizer.param_groups:
        group["lr"] *= lr_factor(cfg.SOLVER)
        group["initial_lr"] = group["lr"]  # the rate that the schedule multiplies
        group["built_with"] = _settings_of(group)
    return optimizer


def restore_optimizer(optimizer, state):
    """Restore an optimizer's state, such as its momentum buffers, but not the settings that the config changed.

    The config changed a setting if this optimizer and the saved optimizer were built with different values. All other
    settings are restored, because some optimizers change them during a run. A state that does not fit is an error.
    """
    built_with = [_settings_of(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, new in zip(optimizer.param_groups, built_with, strict=True):
        old = group.get("built_with") or _settings_of(group)  # checkpoints of detlite 0.1 lack "built_with"
        for name, value in new.items():
            if name not in old or old[name] != value:
                group[name] = value
        group["built_with"] = new
    _check_state(optimizer, built_with)


def _check_state(optimizer, built_with):
    """Raise a ValueError if a setting should be a number but is not, or if a buffer does not fit its parameter."""
    for group, settings in zip(optimizer.param_groups, built_with, strict=True):
        for name, value in settings.items():
            if isinstance(value, (bool, float)) and not isinstance(group[name], (bool, int, float)):
                raise ValueError(f"the optimizer's {name} is a {type(group[name]).__name__}")
    for parameter, buffers in optimizer.state.items():
        if not isinstance(buffers, dict):
            raise ValueError(f"the optimizer's state of a parameter is a {type(buffers).__name__}")
        for name in {"momentum_buffer", "exp_avg", "exp_avg_sq"} & buffers.keys():  # torch's names in SGD and Adam
            if getattr(buffers[name], "shape", None) != parameter.shape:
                raise ValueError(f"the optimizer's {name} does not have its parameter's shape")


def _settings_of(group):
    """Return the settings of a parameter group, such as its weight decay."""
    return {name: value for name, value in group.items() if name not in ("params", "built_with")}


def lr_factor(solver):
    """Return the factor of the linear rule (Goyal et al. 2017), or 1 if REFERENCE_BATCH_SIZE is 0."""
    return solver.BATCH_SIZE / solver.REFERENCE_BATCH_SIZE if solver.REFERENCE_BATCH_SIZE else 1.0


def build_lr_scheduler(cfg, max_iter):
    """Build the config's schedule for ``max_iter`` steps: a function of the step, the factor of "initial_lr"."""
    return LR_SCHEDULERS.build(cfg.SOLVER.LR_SCHEDULER, max_iter)
