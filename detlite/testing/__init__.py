"""Check whether a part keeps its slot's contract, in the tests of your parts.

There is one check per slot. It takes the built part, as in ``check_matcher(MyMatcher())``, and the numbers that its
constructor got: ``check_box_head(MyHead(16, 7), in_channels=16, resolution=7)``. Where a part is built around a data
set, a model or a trainer, the check takes its class, as in ``check_hook(MyHook)``, or a function that builds it. A
check raises a :class:`ContractError` that names the clause, the input, the result and the expected result. All
registered parts of detlite pass the same checks.
"""

from detlite.testing.boxes import (
    check_anchor_generator,
    check_box_coder,
    check_box_loss,
    check_class_loss,
    check_matcher,
    check_nms,
    check_sampler,
)
from detlite.testing.contract import ContractError
from detlite.testing.detectors import check_meta_architecture, check_roi_heads
from detlite.testing.networks import check_backbone, check_box_head, check_roi_pooler, check_rpn_head
from detlite.testing.parts import check_config, check_part, config_of
from detlite.testing.records import check_dataset, check_evaluator, check_image_sampler, check_transform
from detlite.testing.training import check_hook, check_lr_scheduler, check_optimizer

__all__ = [
    "ContractError", "check_anchor_generator", "check_backbone", "check_box_coder", "check_box_head", "check_box_loss",
    "check_class_loss", "check_config", "check_dataset", "check_evaluator", "check_hook", "check_image_sampler",
    "check_lr_scheduler", "check_matcher", "check_meta_architecture", "check_nms", "check_optimizer", "check_part",
    "check_roi_heads", "check_roi_pooler", "check_rpn_head", "check_sampler", "check_transform", "config_of",
]  # fmt: skip
