"""A registered part by its name: its config, and its slot's check."""

import functools

from detlite.config.layers import Layer
from detlite.config.merge import merge
from detlite.config.yaml import parse_yaml
from detlite.parts import Slot
from detlite.signature import config_keys
from detlite.testing.boxes import (
    check_anchor_generator,
    check_box_coder,
    check_box_loss,
    check_class_loss,
    check_matcher,
    check_sampler,
)
from detlite.testing.contract import Case
from detlite.testing.detectors import check_meta_architecture, check_roi_heads
from detlite.testing.networks import check_backbone, check_box_head, check_roi_pooler, check_rpn_head
from detlite.testing.records import check_dataset, check_evaluator, check_transform
from detlite.testing.training import check_hook, check_lr_scheduler, check_optimizer

# The check of each slot, and the numbers that its parts are built with here.
CHECKS = {
    "BACKBONE": (check_backbone, {}),
    "ANCHOR_GENERATOR": (check_anchor_generator, {"strides": [8, 16]}),
    "RPN_HEAD": (check_rpn_head, {"in_channels": 16, "num_anchors": 3}),
    "MATCHER": (check_matcher, {}),
    "SAMPLER": (check_sampler, {}),
    "BOX_CODER": (check_box_coder, {}),
    "BOX_LOSS": (check_box_loss, {}),
    "CLASS_LOSS": (check_class_loss, {}),
    "ROI_POOLER": (check_roi_pooler, {"strides": [16]}),
    "BOX_HEAD": (check_box_head, {"in_channels": 16, "resolution": 7}),
    "ROI_HEADS": (check_roi_heads, {"channels": [16], "strides": [16], "num_classes": 3}),
    "META_ARCHITECTURE": (check_meta_architecture, {"num_classes": 3}),
    "DATASET": (check_dataset, {}),
    "TRANSFORM": (check_transform, {}),
    "LR_SCHEDULER": (check_lr_scheduler, {"max_iter": 40}),
}
BUILT_BY_CHECK = {"EVALUATOR": check_evaluator, "OPTIMIZER": check_optimizer, "HOOK": check_hook}


def config_of(registry, name, keys=()):
    """The config node of a registered part, complete.

    Args:
        registry: one of :mod:`detlite.registry`.
        name: of the part.
        keys: {key: value} that differ from the defaults; nested slots as nested dicts.

    Returns:
        a node that ``registry.build`` takes.
    """
    return _loaded(registry, {"NAME": name, **dict(keys)})


def _loaded(registry, values):
    section = type("Section", (), {"slots": {registry.slot: Slot(registry)}})
    return merge(section, [Layer("a check", {registry.slot: values})])[registry.slot]


def check_config(registry, name, keys=()):
    """Whether a part's config says all about it: every key is explained, and written as YAML it reads back the same.

    Args:
        registry: the slot's, such as ``MATCHERS``.
        name: that the part is registered by.
        keys: {key: value} that differ from the defaults.

    Raises:
        ContractError: it does not.
    """
    case = Case(registry, registry.get(name), "its config", keys=dict(keys))
    node = config_of(registry, name, keys)
    for key, spec in config_keys(registry.get(name)).items():
        case.require(spec.doc, f"a line about {spec.parameter} in the docstring's Args", f"none for {key}")
    with case.watch():
        again = _loaded(registry, parse_yaml(node.dump(), "the dump"))
    case.repeats(node.plain(), again.plain(), "the same after dump and load")


def check_part(registry, name, keys=(), **context):
    """The check of a registered part's slot, on the part that its config builds.

    Args:
        registry: the slot's, such as ``MATCHERS``.
        name: that the part is registered by.
        keys: {key: value} that differ from the defaults.
        context: numbers to build it with, such as ``in_channels``, that differ from those of CHECKS.

    Raises:
        ContractError: it breaks its slot's contract.
    """
    node = config_of(registry, name, keys)
    if registry.slot in BUILT_BY_CHECK:
        build = functools.wraps(registry.get(name))(lambda given: registry.build(node, given))
        BUILT_BY_CHECK[registry.slot](build)
        return
    check, usual = CHECKS[registry.slot]
    context = {**usual, **context}
    check(registry.build(node, *context.values()), **context)
