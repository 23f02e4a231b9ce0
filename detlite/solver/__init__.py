"""Optimizers and schedules of the learning rate."""

from detlite.parts import import_modules
from detlite.registry import LR_SCHEDULERS, OPTIMIZERS
from detlite.solver.optimizers import SGD, AdamW
from detlite.solver.schedules import CosineLR, MultiStepLR

__all__ = ["SGD", "AdamW", "CosineLR", "MultiStepLR", "build_lr_scheduler", "build_optimizer", "lr_factor"]

import_modules(__name__)


def build_optimizer(cfg, model):
    """Build the optimizer of ``cfg.SOLVER.OPTIMIZER`` for the trainable parameters.

    Its learning rates are the config's, multiplied by :func:`lr_factor`.
    """
    optimizer = OPTIMIZERS.build(cfg.SOLVER.OPTIMIZER, model)
    for group in optimizer.param_groups:
        group["lr"] *= lr_factor(cfg.SOLVER)
        group["initial_lr"] = group["lr"]
    return optimizer


def lr_factor(solver):
    """Return the factor of the linear rule (Goyal et al. 2017), 1 if it is unused."""
    return solver.BATCH_SIZE / (solver.REFERENCE_BATCH_SIZE or solver.BATCH_SIZE)


def build_lr_scheduler(cfg, max_iter):
    """Build the config's schedule: (step) -> factor of each group's "initial_lr".

    ``max_iter`` is the number of steps of the whole run; with SOLVER.EPOCHS it depends on the data set.
    """
    return LR_SCHEDULERS.build(cfg.SOLVER.LR_SCHEDULER, max_iter)
