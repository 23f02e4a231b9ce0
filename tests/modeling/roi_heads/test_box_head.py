import pytest
import torch
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from detlite.errors import UserError
from detlite.modeling.roi_heads.box_head import FCBoxHead
from detlite.registry import BOX_HEADS


def test_two_layers_with_relu_agree_with_torchvisions():
    ours, theirs = FCBoxHead(4, 3, fc_dim=16, dropout=0.5).eval(), TwoMLPHead(4 * 3 * 3, 16)
    theirs.load_state_dict(ours.state_dict())
    pooled = torch.randn(5, 4, 3, 3)
    assert ours.out_features == 16
    torch.testing.assert_close(ours(pooled), theirs(pooled))


@pytest.mark.parametrize("name", ["FCBoxHead", "ConvFCBoxHead"])
def test_with_and_without_gradient_the_features_are_the_same(name):
    head = BOX_HEADS.get(name)(16, 7, fc_dim=64).eval()
    pooled = torch.randn(30, 16, 7, 7)
    with_gradient = head(pooled)
    for layout in (torch.contiguous_format, torch.channels_last):
        with torch.no_grad():
            torch.testing.assert_close(head(pooled.to(memory_format=layout)), with_gradient, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(head(pooled), with_gradient, atol=1e-5, rtol=1e-5)


def test_dropout_drops_its_share_in_training_and_nothing_in_test():
    head = FCBoxHead(4, 3, fc_dim=400, dropout=0.5)
    torch.nn.init.constant_(head.fc7.bias, 100.0)  # only dropped outputs are zero
    pooled = torch.randn(20, 4, 3, 3)
    assert 0.45 < (head.train()(pooled) == 0).float().mean() < 0.55
    assert (head.eval()(pooled) > 0).all()
    assert torch.equal(head(pooled), head(pooled))


def test_no_boxes_have_no_features():
    assert FCBoxHead(4, 3, fc_dim=16)(torch.zeros(0, 4, 3, 3)).shape == (0, 16)


def test_a_probability_above_1_is_refused():
    with pytest.raises(UserError, match="0 <= dropout < 1"):
        BOX_HEADS.build({"NAME": "FCBoxHead", "DROPOUT": 1.5, "FC_DIM": 4}, 4, 3)
