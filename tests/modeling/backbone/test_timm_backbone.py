"""timm's nets are backbones: alone, under a pyramid, and with weights as timm saves them."""

import sys

import pytest
import timm
import torch

from detlite.checkpoint import load_weights
from detlite.config import load_config
from detlite.errors import UserError
from detlite.modeling import build_model
from detlite.modeling.backbone.fpn import FPN
from detlite.modeling.backbone.timm_backbone import TimmBackbone
from detlite.modeling.backbone.torchvision_backbone import freeze_batch_norm
from detlite.testing import check_backbone

# timm's smallest nets of each family, and the strides of their last three levels.
NETS = {"test_resnet": [8, 16, 32], "test_convnext": [8, 16, 32], "test_vit": [16, 16, 16]}


def build(name, levels=(-1,)):
    """A detector on a net of timm."""
    keys = {"MODEL.BACKBONE": {"NAME": "TimmBackbone", "MODEL": name, "LEVELS": list(levels)}}
    keys |= {"MODEL.DEVICE": "cpu", "MODEL.CLASSES": ["cell"], "MODEL.RPN.HEAD.CONV_DIM": 16}
    keys |= {"MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": 16}
    return build_model(load_config(opts=[part for pair in keys.items() for part in pair]))


@pytest.mark.parametrize("name", NETS)
def test_a_resnet_a_convnext_and_a_vit_are_backbones_alone_and_under_a_pyramid(name):
    torch.manual_seed(0)
    alone = TimmBackbone(model=name)
    assert list(alone.strides.values()) == NETS[name][1:2]
    check_backbone(alone)
    pyramid = FPN(TimmBackbone(model=name, levels=[-3, -2, -1]), out_channels=16)
    assert list(pyramid.strides.values()) == [*NETS[name], 2 * NETS[name][-1]]
    check_backbone(pyramid)


@pytest.mark.parametrize("name", NETS)
def test_weights_as_timm_saves_them_give_timms_features(name, tmp_path):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=5).eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    ours = build(name).eval()
    report = load_weights(ours, tmp_path / "net.pth")
    assert report.matched == 1
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        (level,) = ours.backbone(images).values()
        expected = net.forward_intermediates(images, intermediates_only=True)[-1]
    torch.testing.assert_close(level, expected, atol=1e-4, rtol=1e-4)


def test_a_frozen_batch_norm_keeps_the_activation_inside_it():
    torch.manual_seed(0)
    net = timm.create_model("test_efficientnet").eval()
    images = torch.randn(1, 3, 64, 96)
    expected = net.forward_features(images)
    assert "BatchNormAct" in str(net)
    frozen = freeze_batch_norm(net)
    assert "FrozenBatchNormAct2d" in str(frozen) and not any("running" in name for name, _ in frozen.named_parameters())
    torch.testing.assert_close(frozen.train().forward_features(images), expected)


def test_what_timm_lacks_is_named(monkeypatch):
    with pytest.raises(UserError, match="no model called 'convnext_tinny'; did you mean convnext_tiny"):
        build("convnext_tinny")
    with pytest.raises(UserError, match=r"test_resnet has no feature levels \[7\]"):
        build("test_resnet", [7])
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="timm is not installed: pip install timm"):
        build("test_resnet")
