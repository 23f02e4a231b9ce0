"""Every number that a config can set on a part has a range. A value outside is refused, with its key."""

import math

import pytest

from detlite.config import load_config
from detlite.errors import UserError
from detlite.modeling import build_model
from detlite.modeling.rpn import RPN
from detlite.registry import (
    ANCHOR_GENERATORS,
    BACKBONES,
    BOX_CODERS,
    BOX_HEADS,
    BOX_LOSSES,
    CLASS_LOSSES,
    DATASETS,
    LR_SCHEDULERS,
    META_ARCHITECTURES,
    ROI_HEADS,
    ROI_POOLERS,
    RPN_HEADS,
    registries,
)
from detlite.signature import config_keys
from detlite.testing import config_of
from detlite.testing.parts import CHECKS
from detlite.testing.records import TwoImages
from detlite.testing.training import TinyModel
from swap_matrix import NARROW

NESTED = {"TiledDataset": {"DATASET": {"NAME": "ShapesDataset"}}}

load_config()  # imports the built-in parts
GIVEN = {slot: list(context.values()) for slot, (_, context) in CHECKS.items()}
GIVEN |= {"EVALUATOR": [TwoImages()], "OPTIMIZER": [TinyModel()]}
UNBOUNDED = {"pixel_mean"}
NO_LIMIT = {"max_stride"}  # infinity is a value of these


def numbers():
    """Yield (registry, part's name, spec) of every key that is a number or a list of numbers."""
    for registry in registries().values():
        for name in registry if registry.slot in GIVEN else ():
            for key, spec in config_keys(registry.get(name)).items():
                if spec.annotation in (int, float, list[int], list[float]) and spec.parameter not in UNBOUNDED:
                    yield pytest.param(registry, name, spec, id=f"{registry.slot}-{name}-{key}")


def wrong(spec, number):
    """Return the number, or a list of it as long as the default, as the key's type requires."""
    is_list = spec.annotation in (list[int], list[float])
    return [number] * max(1, len(spec.default)) if is_list else number


@pytest.mark.parametrize(("registry", "name", "spec"), list(numbers()))
def test_a_number_outside_its_range_is_refused_with_key_and_value(registry, name, spec):
    refused = [-7] if spec.annotation in (int, list[int]) else [-7.5, math.inf]
    refused = refused[:1] if spec.parameter in NO_LIMIT else refused
    for number in refused:
        keys = {k: v for k, v in {**NARROW, **NESTED}.get(name, {}).items() if k != spec.parameter.upper()}
        value = wrong(spec, number)
        with pytest.raises(UserError) as caught:
            registry.build(config_of(registry, name, {**keys, spec.parameter.upper(): value}), *GIVEN[registry.slot])
        message = str(caught.value)
        assert message.startswith(f"{registry.slot}: {name}: ")
        assert spec.parameter in message.lower() and str(number) in message


@pytest.mark.parametrize("key", [key for key, spec in config_keys(RPN).items() if spec.annotation in (int, float)])
def test_a_number_of_the_rpn_outside_its_range_is_refused_with_its_place(key):
    keys = NARROW["ProposalNetwork"]
    node = config_of(META_ARCHITECTURES, "ProposalNetwork", {**keys, "RPN": {**keys["RPN"], key: -7}})
    with pytest.raises(UserError, match=r"META_ARCHITECTURE.RPN: .*-7"):
        META_ARCHITECTURES.build(node, 3)


@pytest.mark.parametrize(
    ("registry", "name", "key", "value", "message"),
    [
        (BACKBONES, "VGG", "LEVELS", [], "levels must be one stage or more, finest first, got []"),
        (BACKBONES, "VGG", "LEVELS", ["conv5", "conv4"], "finest first, got ['conv5', 'conv4']"),
        (BACKBONES, "VGG", "WIDTH", 0, "width must be a number above 0, got 0.0"),
        (BACKBONES, "TorchvisionBackbone", "LAYERS", [], "layers are the names of one level or several, none twice"),
        (
            BACKBONES,
            "TorchvisionBackbone",
            "MODEL",
            "resnet5O",
            "TorchvisionBackbone: torchvision has no classification",
        ),
        (BACKBONES, "TorchvisionBackbone", "LAYERS", ["fc"], "expected (1, channels, height / stride, width / stride)"),
        (BACKBONES, "TorchvisionBackbone", "FREEZE", ["conv1", "layr1"], "no weights in 'layr1'; did you mean layer1?"),
        (
            BACKBONES,
            "TorchvisionBackbone",
            "FREEZE",
            ["layer4"],
            "freeze: up to its last level resnet18 cut at",
        ),
        (BACKBONES, "FPN", "OUT_CHANNELS", 0, "out_channels must be at least 1, got 0"),
        (BACKBONES, "FPN", "BOTTOM_UP", {"NAME": "FPN"}, "BOTTOM_UP has a level pool already"),
        (ANCHOR_GENERATORS, "GridAnchorGenerator", "SIZES", [], "sizes and aspect_ratios are numbers above 0, got []"),
        (
            ANCHOR_GENERATORS,
            "GridAnchorGenerator",
            "SIZES",
            [[8], [], [9]],
            "sizes has 3 lists, but the features have 2",
        ),
        (ANCHOR_GENERATORS, "GridAnchorGenerator", "ASPECT_RATIOS", [], "are numbers above 0"),
        (ANCHOR_GENERATORS, "ListAnchorGenerator", "ANCHORS", [], "anchors are pairs of a width and a height above 0"),
        (ANCHOR_GENERATORS, "ListAnchorGenerator", "ANCHORS", [[8, -8]], "a height above 0, got [[8.0, -8.0]]"),
        (RPN_HEADS, "RPNHead", "CONV_DIM", 0, "need conv_dim >= 1"),
        (RPN_HEADS, "RPNHead", "OBJECT_PRIOR", 1, "0 < object_prior < 1"),
        (BOX_CODERS, "DeltaBoxCoder", "WEIGHTS", [1, 1, 1, 0], "weights are four numbers above 0"),
        (ROI_POOLERS, "RoIPool", "RESOLUTION", 0, "resolution must be from 1 to 256, got 0"),
        (BOX_HEADS, "FCBoxHead", "FC_DIM", 0, "need fc_dim >= 1 and 0 <= dropout < 1, got 0 and 0.5"),
        (BOX_HEADS, "FCBoxHead", "DROPOUT", 2, "0 <= dropout < 1, got 32 and 2.0"),
        (BOX_HEADS, "Res5BoxHead", "MODEL", "vgg16", "model must be a ResNet of torchvision.models"),
        (ROI_HEADS, "CascadeRoIHeads", "MATCHERS", [], "have an entry for each stage, got 0 and 3"),
        (ROI_HEADS, "CascadeRoIHeads", "BOX_CODERS", [{"NAME": "LTRBBoxCoder"}], "for each stage, got 3 and 1"),
        (ROI_HEADS, "CascadeRoIHeads", "NMS", {"IOU": 1.5}, "iou must be in 0 ... 1, got 1.5"),
        (LR_SCHEDULERS, "MultiStepLR", "STEPS", [20, 10], "steps must ascend, got [20.0, 10.0]"),
        (LR_SCHEDULERS, "MultiStepLR", "GAMMA", 0, "gamma must be a number above 0, got 0.0"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_does(registry, name, key, value, message):
    with pytest.raises(UserError) as caught:
        registry.build(config_of(registry, name, {**NARROW.get(name, {}), key: value}), *GIVEN[registry.slot])
    assert str(caught.value).startswith(registry.slot)
    assert message in str(caught.value)


class NoStridesForTest:
    """A backbone that does not say its strides."""

    channels = {"only": 8}


class NotHandedForTest:
    """A pooler that does not take the strides."""

    def __init__(self, *, resolution: int = 7):
        self.resolution = resolution


class OtherSpaceForTest:
    """A loss in an unknown space."""

    space = "pixels"


class OtherDivisorForTest:
    """A loss with an unknown divisor."""

    normalize_by = "positives"


@pytest.mark.parametrize(
    ("registry", "part", "message"),
    [
        (BACKBONES, NoStridesForTest, "BACKBONE: NoStridesForTest has no attribute strides; the contract: Built with"),
        (
            ROI_POOLERS,
            NotHandedForTest,
            "ROI_POOLER: NotHandedForTest: too many positional arguments; the contract: Built with",
        ),
        (BOX_LOSSES, OtherSpaceForTest, "its attribute space must be 'deltas' or 'boxes', got 'pixels'"),
        (CLASS_LOSSES, OtherDivisorForTest, "normalize_by must be 'sampled' or 'positive', got 'positives'"),
    ],
)
def test_a_part_without_what_its_contract_asks_for_is_refused_as_it_is_built(registry, part, message):
    registry.register()(part)
    with pytest.raises(UserError) as caught:
        registry.build(config_of(registry, part.__name__), *GIVEN[registry.slot])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (
            {"MODEL.RPN.ANCHOR_GENERATOR.SIZES": [[16], [32, 64], [64], [128]]},
            "MODEL.RPN.HEAD: one head serves all feature levels, but they have [3, 6, 3, 3] anchors per cell; give "
            "MODEL.RPN.ANCHOR_GENERATOR the same number for each level",
        ),
        (
            {"MODEL.RPN.ANCHOR_GENERATOR.SIZES": [[16], [32]]},
            "MODEL.RPN.ANCHOR_GENERATOR: GridAnchorGenerator: sizes has 2 lists, but the features have 4 levels",
        ),
        (
            {"MODEL.BACKBONE.NAME": "VGG", "MODEL.BACKBONE.LEVELS": ["conv3", "conv4"], "MODEL.BACKBONE.WIDTH": 0.1},
            "MODEL.RPN.HEAD: one head serves all feature levels, but they have [26, 51] channels; the backbone FPN",
        ),
        (
            {"MODEL.ROI_HEADS.POOLER.NAME": "RoIAlign"},
            "MODEL.ROI_HEADS.POOLER: RoIAlign: RoIAlign pools from one feature level, got 4; MultiLevelPooler takes "
            "several",
        ),
        (
            {"MODEL.ROI_HEADS.BOX_HEAD.NAME": "Res5BoxHead", "MODEL.ROI_HEADS.BOX_HEAD.MODEL": "resnet18"},
            "MODEL.ROI_HEADS.BOX_HEAD: Res5BoxHead: resnet18's last stage takes 256 channels, the backbone gives 16; "
            "it continues a TorchvisionBackbone with MODEL resnet18 and LAYERS [layer3]",
        ),
        (
            {"MODEL.RPN.MIN_SIZE": -1},
            "MODEL.RPN: need *_top_n_* >= 1, box_loss_weight >= 0, min_size >= 0",
        ),
    ],
)
def test_collaborators_that_do_not_fit_are_refused_with_their_place_and_what_fits(opts, message):
    pyramid = {
        "MODEL.BACKBONE.NAME": "FPN",
        "MODEL.BACKBONE.OUT_CHANNELS": 16,
        "MODEL.BACKBONE.BOTTOM_UP.WIDTH": 0.1,
        "MODEL.ROI_HEADS.POOLER.NAME": "MultiLevelPooler",
        "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": 8,
    }
    if "MODEL.ROI_HEADS.BOX_HEAD.NAME" in opts:
        del pyramid["MODEL.ROI_HEADS.BOX_HEAD.FC_DIM"]
    if "MODEL.BACKBONE.NAME" in opts:
        pyramid = {}
    with pytest.raises(UserError) as caught:
        build_model(load_config(opts=[word for pair in (pyramid | opts).items() for word in pair]))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "MODEL.RPN.HEAD.CONV_DIM",
            "1e30",
            r"CONV_DIM: expected a whole number, got 1e\+30, which has more",
        ),
        ("MODEL.RPN.HEAD.CONV_DIM", "1e12", "MODEL.RPN.HEAD: RPNHead: .*its largest number is CONV_DIM 1000000000000"),
        ("MODEL.ROI_HEADS.POOLER.RESOLUTION", "1e9", "POOLER: RoIPool: resolution must be from 1 to 256"),
        ("MODEL.ROI_HEADS.POOLER", "{NAME: RoIAlign, SAMPLING_RATIO: 1e9}", "sampling_ratio must be from 0 to 64"),
        ("DATASETS.TRAIN.0.NUM_IMAGES", "1e9", "DATASETS.TRAIN.0: ShapesDataset: need 1 <= num_images <= 10,000,000"),
        ("DATASETS.TRAIN.0.IMAGE_SIZE", "1e9", "32 <= image_size <= 10,000.*, got 1000, 1000000000, 5 and 0"),
    ],
)
def test_an_enormous_size_is_one_message_that_names_the_key(key, value, message):
    with pytest.raises(UserError, match=message) as caught:
        cfg = load_config(opts=["MODEL.BACKBONE.WIDTH", "0.0625", key, value])
        DATASETS.build(cfg.DATASETS.TRAIN[0])
        build_model(cfg)
    assert "\n" not in str(caught.value)
