"""Does a part keep its slot's contract? One check a slot, for a part of your own in a test of your own.

A check takes the part built, as in ``check_matcher(MyMatcher())``; where the constructor is handed numbers, they are
said again: ``check_box_head(MyHead(16, 7), in_channels=16, resolution=7)``. Parts that are built around a data set, a
model or a trainer are given as their class, ``check_hook(MyHook)``, or as a function that builds them. A broken
contract raises :class:`ContractError`, which says which clause, with what input, what came back and what was expected.
The same checks run over every registered part of detlite's own.
"""

from detlite.testing.boxes import (
    check_anchor_generator,
    check_box_coder,
    check_box_loss,
    check_class_loss,
    check_matcher,
    check_sampler,
)
from detlite.testing.contract import ContractError
from detlite.testing.detectors import check_meta_architecture, check_roi_heads
from detlite.testing.networks import check_backbone, check_box_head, check_roi_pooler, check_rpn_head
from detlite.testing.parts import check_config, check_part, config_of
from detlite.testing.records import check_dataset, check_evaluator, check_transform
from detlite.testing.training import check_hook, check_lr_scheduler, check_optimizer

__all__ = [
    "ContractError",
    "check_anchor_generator",
    "check_backbone",
    "check_box_coder",
    "check_box_head",
    "check_box_loss",
    "check_class_loss",
    "check_config",
    "check_dataset",
    "check_evaluator",
    "check_hook",
    "check_lr_scheduler",
    "check_matcher",
    "check_meta_architecture",
    "check_optimizer",
    "check_part",
    "check_roi_heads",
    "check_roi_pooler",
    "check_rpn_head",
    "check_sampler",
    "check_transform",
    "config_of",
]
