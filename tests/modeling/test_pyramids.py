"""Several feature levels, and backbones and heads from torchvision's classification nets."""

from collections import OrderedDict

import pytest
import torch
import torchvision
from torchvision.ops import MultiScaleRoIAlign

from detlite.config import load_config
from detlite.errors import UserError
from detlite.modeling import build_model
from detlite.modeling.backbone.fpn import FPN
from detlite.modeling.backbone.torchvision_backbone import TorchvisionBackbone
from detlite.modeling.backbone.vgg import VGG
from detlite.modeling.roi_heads.box_head import ConvFCBoxHead, Res5BoxHead
from detlite.modeling.roi_heads.pooler import MultiLevelPooler, RoIAlign

IMAGES = [torch.rand(3, 96, 128), torch.rand(3, 80, 64)]
PYRAMID = {
    "MODEL.BACKBONE.NAME": "FPN",
    "MODEL.BACKBONE.OUT_CHANNELS": 32,
    "MODEL.BACKBONE.BOTTOM_UP.WIDTH": 0.125,
    "MODEL.BACKBONE.BOTTOM_UP.FREEZE_AT": 0,
    "MODEL.RPN.ANCHOR_GENERATOR.SIZES": [[16], [32], [64], [128]],
    "MODEL.RPN.INSIDE_ONLY": False,
    "MODEL.ROI_HEADS.POOLER.NAME": "MultiLevelPooler",
}


@pytest.fixture
def build():
    """A function: a narrow detector from nothing but the given {key: value}."""
    common = {
        "MODEL.DEVICE": "cpu",
        "MODEL.CLASSES": ["circle", "square", "triangle"],
        "MODEL.RPN.HEAD.CONV_DIM": 32,
        "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 50,
    }

    def from_keys(changes):
        return build_model(load_config(opts=[part for pair in (common | changes).items() for part in pair]))

    return from_keys


def assert_trains_and_detects(model, make_target):
    targets = [make_target([[20, 30, 60, 80], [70, 10, 120, 60]], [2, 1], seed=1), make_target(seed=2)]
    losses = model(IMAGES, targets)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trainable)
    with torch.no_grad():
        assert len(model.eval()(IMAGES)) == 2


def test_vggs_stages_are_levels_of_their_strides():
    backbone = VGG(width=0.125, levels=["conv2", "conv4", "conv5"])
    images = torch.rand(1, 3, 64, 96)
    features = backbone(images)
    assert backbone.strides == {"conv2": 2, "conv4": 8, "conv5": 16}
    for name, level in features.items():
        assert level.shape == (1, backbone.channels[name], 64 // backbone.strides[name], 96 // backbone.strides[name])
    torch.testing.assert_close(features["conv5"], backbone.features(images))
    with pytest.raises(ValueError, match="finest first"):
        VGG(levels=["conv5", "conv3"])


def test_a_vgg_that_ends_earlier_is_cut_there():
    backbone = VGG(width=0.125, levels=["conv3"])
    assert len(backbone.features) == 16  # two stages of 2 convolutions and one of 3, ReLUs, two poolings
    assert backbone(torch.rand(1, 3, 64, 96))["conv3"].shape == (1, 32, 16, 24)


def test_a_pyramids_levels_have_the_same_channels_and_their_strides():
    backbone = FPN(VGG(width=0.125, levels=["conv3", "conv4", "conv5"]), out_channels=24)
    features = backbone(torch.rand(2, 3, 64, 96))
    assert backbone.strides == {"conv3": 4, "conv4": 8, "conv5": 16, "pool": 32}
    assert [tuple(level.shape) for level in features.values()] == [
        (2, 24, 16, 24),
        (2, 24, 8, 12),
        (2, 24, 4, 6),
        (2, 24, 2, 3),
    ]


def test_group_norm_gives_levels_of_different_scales_one_scale():
    torch.manual_seed(0)
    backbone = VGG(width=0.125, levels=["conv3", "conv4", "conv5"])
    plain, normed = (FPN(backbone, out_channels=64, extra_level=False, norm=norm) for norm in ("none", "GroupNorm"))
    with torch.no_grad():
        backbone.features[0].weight *= 1000  # of all levels
        for images in torch.rand(2, 1, 3, 64, 96):
            assert min(level.std() for level in plain(images).values()) > 10
            for level in normed(images).values():
                torch.testing.assert_close(level.std(), torch.tensor(1.0), atol=0.02, rtol=0)


def test_group_norm_needs_whole_groups():
    with pytest.raises(ValueError, match="GroupNorm needs multiples of 32 channels, got 48"):
        FPN(VGG(width=0.125, levels=["conv3", "conv4"]), out_channels=48, norm="GroupNorm")


def test_boxes_are_pooled_from_the_level_that_torchvision_takes():
    generator = torch.Generator().manual_seed(0)
    strides = [4, 8, 16, 32]
    features = [torch.randn(2, 3, 512 // s, 640 // s, generator=generator) for s in strides]
    corners = torch.rand(200, 2, generator=generator) * 300
    sizes = 2 ** (3 + 7 * torch.rand(200, 2, generator=generator))
    boxes = torch.cat([corners, corners + sizes], dim=1).split([120, 80])
    poolers = [RoIAlign([s], aligned=False) for s in strides]
    ours = MultiLevelPooler(strides, poolers)
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2, canonical_scale=224, canonical_level=4)
    named = OrderedDict((str(level), value) for level, value in enumerate(features))
    expected = theirs(named, list(boxes), [(512, 640)] * 2)
    torch.testing.assert_close(ours(features, boxes), expected, atol=1e-4, rtol=1e-4)
    assert {int(level) for level in ours.levels_of(torch.cat(boxes))} == {0, 1, 2, 3}


def test_levels_too_coarse_are_not_pooled_from():
    pooler = MultiLevelPooler([16, 32, 64], [RoIAlign([s]) for s in (16, 32, 64)])
    assert pooler.levels_of(torch.tensor([[0.0, 0, 900, 900]])).tolist() == [1]
    with pytest.raises(ValueError, match="max_stride"):
        MultiLevelPooler([64], [RoIAlign([64])])


def test_no_boxes_pool_to_nothing():
    pooler = MultiLevelPooler([16, 32], [RoIAlign([16]), RoIAlign([32])])
    features = [torch.rand(1, 3, 8, 8), torch.rand(1, 3, 4, 4)]
    assert pooler(features, [torch.zeros(0, 4)]).shape == (0, 3, 7, 7)


@pytest.mark.parametrize("pooler", ["RoIAlign", "RoIPool"])
def test_a_vgg_pyramid_trains_and_detects(pooler, build, make_target):
    changes = PYRAMID | {"MODEL.ROI_HEADS.POOLER.POOLER.NAME": pooler, "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": 32}
    assert_trains_and_detects(build(changes), make_target)


def test_a_pooler_of_one_level_refuses_a_pyramid_and_says_where(build):
    changes = {**PYRAMID, "MODEL.ROI_HEADS.POOLER.NAME": "RoIAlign"}
    with pytest.raises(UserError, match=r"MODEL.ROI_HEADS.POOLER: .* pools from one feature level, got 4"):
        build(changes)


def test_resnet_18_with_its_last_stage_as_head_trains_and_detects(build, make_target):
    model = build(
        {
            "MODEL.BACKBONE.NAME": "TorchvisionBackbone",
            "MODEL.BACKBONE.MODEL": "resnet18",
            "MODEL.BACKBONE.FREEZE": ["conv1", "layer1"],
            "MODEL.ROI_HEADS.BOX_HEAD.NAME": "Res5BoxHead",
            "MODEL.ROI_HEADS.BOX_HEAD.MODEL": "resnet18",
            "MODEL.ROI_HEADS.SAMPLER.NUM_SAMPLES": 16,
        }
    )
    assert (model.backbone.channels, model.backbone.strides) == ({"layer3": 256}, {"layer3": 16})
    frozen = {name.split(".")[2] for name, p in model.backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"weight", "0", "1"}  # conv1.weight and layer1's blocks
    assert_trains_and_detects(model, make_target)


def test_a_cut_resnets_features_are_torchvisions():
    backbone = TorchvisionBackbone(model="resnet18", layers=["layer2", "layer3"], frozen_batch_norm=False).eval()
    net = torchvision.models.resnet18(weights=None).eval()
    net.load_state_dict(backbone.body.state_dict(), strict=False)  # all but its last stage and classifier
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        hidden = net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(images))))))
        features = backbone(images)
    torch.testing.assert_close(features["layer2"], hidden)
    assert backbone.strides == {"layer2": 8, "layer3": 16}


def test_mobilenet_is_a_backbone_too(build, make_target):
    model = build(
        {
            "MODEL.BACKBONE.NAME": "TorchvisionBackbone",
            "MODEL.BACKBONE.MODEL": "mobilenet_v3_small",
            "MODEL.BACKBONE.LAYERS": ["features.8"],
            "MODEL.ROI_HEADS.BOX_HEAD.NAME": "ConvFCBoxHead",
            "MODEL.ROI_HEADS.BOX_HEAD.NUM_CONVS": 1,
            "MODEL.ROI_HEADS.BOX_HEAD.CONV_DIM": 16,
            "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": 32,
        }
    )
    assert model.backbone.strides == {"features.8": 16}
    assert_trains_and_detects(model, make_target)


def test_unknown_models_and_layers_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean resnet50"):
        TorchvisionBackbone(model="resnet5O")
    with pytest.raises(ValueError, match="did you mean layer3"):
        TorchvisionBackbone(model="resnet18", layers=["layr3"])


def test_a_resnet_without_1x1_convolutions_cannot_have_its_strides_in_them():
    with pytest.raises(ValueError, match="ResNets with 1 x 1 convolutions, such as resnet50, got resnet18"):
        Res5BoxHead(256, 14, model="resnet18", stride_in_1x1=True)


def test_a_head_that_does_not_fit_its_backbone_is_refused():
    with pytest.raises(ValueError, match="takes 1024 channels, the backbone gives 512"):
        Res5BoxHead(512, 7)
    with pytest.raises(ValueError, match="a ResNet"):
        Res5BoxHead(512, 7, model="vgg16")


def test_convolutions_and_layers_give_one_vector_a_region():
    head = ConvFCBoxHead(8, 7, num_convs=2, conv_dim=4, num_fcs=2, fc_dim=6)
    assert head(torch.rand(5, 8, 7, 7)).shape == (5, head.out_features) == (5, 6)
    assert head(torch.rand(0, 8, 7, 7)).shape == (0, 6)
    with pytest.raises(ValueError, match="num_fcs"):
        ConvFCBoxHead(8, 7, num_fcs=0)
