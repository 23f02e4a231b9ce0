"""The slots and their registries."""

import pytest

import detlite.registry
from detlite.config import load_config

NAMES = """BACKBONES ANCHOR_GENERATORS RPN_HEADS MATCHERS SAMPLERS BOX_CODERS BOX_LOSSES CLASS_LOSSES ROI_POOLERS
BOX_HEADS ROI_HEADS META_ARCHITECTURES DATASETS IMAGE_SAMPLERS TRANSFORMS EVALUATORS OPTIMIZERS LR_SCHEDULERS
HOOKS""".split()


@pytest.mark.parametrize("name", NAMES)
def test_every_slot_has_one_registry_that_states_its_contract(name):
    registry = getattr(detlite.registry, name)
    assert registry.__doc__.startswith("Built with")
    assert "\n" not in registry.contract and registry.contract.split() == registry.__doc__.split()
    assert registry.slot in name


@pytest.mark.parametrize(
    ("registry", "part"),
    [
        ("BACKBONES", "VGG"),
        ("ANCHOR_GENERATORS", "GridAnchorGenerator"),
        ("RPN_HEADS", "RPNHead"),
        ("MATCHERS", "MaxIoUMatcher"),
        ("SAMPLERS", "BalancedSampler"),
        ("BOX_CODERS", "DeltaBoxCoder"),
        ("BOX_LOSSES", "SmoothL1Loss"),
        ("CLASS_LOSSES", "CrossEntropyLoss"),
        ("ROI_POOLERS", "RoIPool"),
        ("ROI_POOLERS", "RoIAlign"),
        ("BOX_HEADS", "FCBoxHead"),
        ("ROI_HEADS", "StandardRoIHeads"),
        ("META_ARCHITECTURES", "FasterRCNN"),
    ],
)
def test_the_classic_parts_have_the_names_that_others_rely_on(registry, part):
    load_config()
    assert part in getattr(detlite.registry, registry)
