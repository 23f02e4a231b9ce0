"""Optimizers and schedules of the learning rate."""

from detlite.parts import import_modules
from detlite.registry import LR_SCHEDULERS, OPTIMIZERS
from detlite.solver.optimizers import SGD, AdamW, parameter_groups
from detlite.solver.schedules import CosineLR, MultiStepLR

__all__ = [
    "SGD",
    "AdamW",
    "CosineLR",
    "MultiStepLR",
    "build_lr_scheduler",
    "build_optimizer",
    "lr_factor",
    "parameter_groups",
]

import_modules(__name__)


def build_optimizer(cfg, model):
    """The torch.optim.Optimizer that ``cfg.SOLVER.OPTIMIZER`` describes, over the model's trainable parameters.

    Its learning rates are those of the config, times :func:`lr_factor`.
    """
    optimizer = OPTIMIZERS.build(cfg.SOLVER.OPTIMIZER, model)
    for group in optimizer.param_groups:
        group["lr"] *= lr_factor(cfg.SOLVER)
        group["initial_lr"] = group["lr"]
    return optimizer


def lr_factor(solver):
    """The linear rule (Goyal et al. 2017): SOLVER's batch size over the one that its learning rate is meant for."""
    return solver.BATCH_SIZE / (solver.REFERENCE_BATCH_SIZE or solver.BATCH_SIZE)


def build_lr_scheduler(cfg, max_iter):
    """The schedule that ``cfg.SOLVER.LR_SCHEDULER`` describes: ``(step) -> factor`` of each group's "initial_lr".

    Args:
        cfg: what :func:`detlite.config.load_config` returned.
        max_iter: steps of the whole run, which SOLVER.EPOCHS leaves to the data set.
    """
    return LR_SCHEDULERS.build(cfg.SOLVER.LR_SCHEDULER, max_iter)
