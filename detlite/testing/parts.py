"""Check a registered part by its name: its config, and its slot's contract."""

import functools

from detlite.config.config import Config
from detlite.config.layers import Layer
from detlite.config.merge import merge
from detlite.config.yaml import parse_yaml
from detlite.parts import Slot
from detlite.signature import config_keys
from detlite.testing import boxes, detectors, networks, records, training
from detlite.testing.contract import Case

# The check of each slot, and the numbers with which :func:`check_part` builds its parts.
CHECKS = {
    "BACKBONE": (networks.check_backbone, {}),
    "ANCHOR_GENERATOR": (boxes.check_anchor_generator, {"strides": [8, 16]}),
    "RPN_HEAD": (networks.check_rpn_head, {"in_channels": 16, "num_anchors": 3}),
    "MATCHER": (boxes.check_matcher, {}),
    "SAMPLER": (boxes.check_sampler, {}),
    "BOX_CODER": (boxes.check_box_coder, {}),
    "BOX_LOSS": (boxes.check_box_loss, {}),
    "CLASS_LOSS": (boxes.check_class_loss, {}),
    "NMS": (boxes.check_nms, {}),
    "ROI_POOLER": (networks.check_roi_pooler, {"strides": [16]}),
    "BOX_HEAD": (networks.check_box_head, {"in_channels": 16, "resolution": 7}),
    "ROI_HEADS": (detectors.check_roi_heads, {"channels": [16], "strides": [16], "num_classes": 3}),
    "META_ARCHITECTURE": (detectors.check_meta_architecture, {"num_classes": 3}),
    "DATASET": (records.check_dataset, {}),
    "TRANSFORM": (records.check_transform, {}),
    "LR_SCHEDULER": (training.check_lr_scheduler, {"max_iter": 40}),
}
# Checks that build the part themselves, from its class.
BUILT_BY_CHECK = {
    "EVALUATOR": records.check_evaluator,
    "IMAGE_SAMPLER": records.check_image_sampler,
    "OPTIMIZER": training.check_optimizer,
    "HOOK": training.check_hook,
}


def config_of(registry: object, name: str, keys: list | tuple = ()) -> Config:
    """Return the complete config node of a registered part, for ``registry.build``.

    ``keys`` has the values that differ from the defaults, {key: value}, with nested slots as nested dicts.
    """
    section = type("Section", (), {"slots": {registry.slot: Slot(registry)}})
    layer = Layer("a check", {registry.slot: {"NAME": name, **dict(keys)}})
    return merge(section, [layer])[registry.slot]


def check_config(registry: object, name: str, keys: list | tuple = ()) -> None:
    """Raise a ContractError unless a part's config is explained and survives YAML.

    Every key needs a line in ``Args:`` of the docstring. The config, written as YAML and read again, must be the same.
    :func:`config_of` describes the arguments.
    """
    case = Case(registry, registry.get(name), "its config", keys=dict(keys))
    node = config_of(registry, name, keys)
    for key, spec in config_keys(registry.get(name)).items():
        case.require(spec.doc, f"a line about {spec.parameter} in the docstring's Args", f"none for {key}")
    with case.watch():
        again = config_of(registry, name, parse_yaml(node.dump(), "the dump"))
    case.repeats(node.plain(), again.plain(), "the same config after dump and load")


def check_part(registry: object, name: str, keys: list | tuple = (), **context: object) -> None:
    """Raise a ContractError unless a registered part keeps its slot's contract.

    The part is built from :func:`config_of` (registry, name, keys). ``context`` has positional arguments of its
    constructor by name, such as ``in_channels``, and overrides CHECKS.
    """
    node = config_of(registry, name, keys)
    if registry.slot in BUILT_BY_CHECK:
        build = functools.wraps(registry.get(name))(lambda *given: registry.build(node, *given))
        BUILT_BY_CHECK[registry.slot](build)
        return
    check, usual = CHECKS[registry.slot]
    context = {**usual, **context}
    check(registry.build(node, *context.values()), **context)
