"""Optimizers and schedules of the learning rate."""

from detlite.registry import LR_SCHEDULERS, OPTIMIZERS
from detlite.solver.optimizers import SGD, AdamW, parameter_groups
from detlite.solver.schedules import CosineLR, MultiStepLR

__all__ = ["SGD", "AdamW", "CosineLR", "MultiStepLR", "build_lr_scheduler", "build_optimizer", "parameter_groups"]


def build_optimizer(cfg, model):
    """The torch.optim.Optimizer that ``cfg.SOLVER.OPTIMIZER`` describes, over the model's trainable parameters."""
    return OPTIMIZERS.build(cfg.SOLVER.OPTIMIZER, model)


def build_lr_scheduler(cfg):
    """The schedule that ``cfg.SOLVER.LR_SCHEDULER`` describes: ``(step) -> factor`` of each group's "initial_lr"."""
    return LR_SCHEDULERS.build(cfg.SOLVER.LR_SCHEDULER, cfg.SOLVER.MAX_ITER)
