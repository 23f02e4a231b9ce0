import math

import pytest
import torch
from torch import nn

from detlite.config import load_config
from detlite.errors import UserError
from detlite.modeling.anchor_generator import GridAnchorGenerator
from detlite.modeling.losses import objectness
from detlite.modeling.rpn.head import RPNHead
from detlite.modeling.rpn.rpn import RPN

KEYS = {"MODEL.RPN.ANCHOR_GENERATOR.SIZES": [32, 64], "MODEL.RPN.HEAD.CONV_DIM": 8}


def build_rpn(changes=None, channels=(4,), strides=(16,)):
    opts = KEYS | (changes or {})
    return RPN.from_config(
        load_config(opts=[part for pair in opts.items() for part in pair]).MODEL.RPN, list(channels), list(strides)
    )


def silence(head):
    """Make the head say 0 everywhere."""
    for parameter in head.parameters():
        nn.init.zeros_(parameter)


@pytest.mark.parametrize(("kind", "columns"), [("softmax", 2), ("sigmoid", 1)])
def test_a_prediction_belongs_to_the_anchor_at_its_index(kind, columns):
    """A single lit cell of a map that is wider than high lights the predictions of the anchors centred there."""
    generator = GridAnchorGenerator([16], sizes=[32, 64], aspect_ratios=[0.5, 1, 2])
    head = RPNHead(1, 6, conv_dim=1, objectness=kind)
    silence(head)
    with torch.no_grad():
        head.conv.weight[0, 0, 1, 1] = 1
        head.logits.weight[:, 0, 0, 0] = torch.arange(6.0 * columns) + 1
        head.deltas.weight[:, 0, 0, 0] = torch.arange(24.0) + 1
    features = torch.zeros(2, 1, 3, 5)
    features[1, 0, 1, 3] = 1  # second image, row 1, column 3
    (logits,), (deltas,) = head([features])
    assert logits.shape == (2, 3 * 5 * 6, columns) and deltas.shape == (2, 3 * 5 * 6, 4)
    assert not logits[0].any() and not deltas[0].any()
    lit = deltas[1].any(dim=1)
    assert torch.equal(lit, logits[1].any(dim=1))
    assert logits[1][lit].flatten().tolist() == list(range(1, 6 * columns + 1))
    assert deltas[1][lit].flatten().tolist() == list(range(1, 25))
    (anchors,) = generator([(3, 5)])
    centers = (anchors[lit, :2] + anchors[lit, 2:]) / 2
    torch.testing.assert_close(centers, torch.tensor([[8.0 + 16 * 3, 8.0 + 16 * 1]]).expand(6, 2))
    torch.testing.assert_close(anchors[lit] - centers.repeat(1, 2), generator.cell_anchors[0])


def test_a_relu_follows_the_three_by_three_convolution():
    head = RPNHead(4, 2, conv_dim=8)
    nn.init.constant_(head.conv.bias, -1e6)
    nn.init.constant_(head.deltas.bias, 0.25)
    (logits,), (deltas,) = head([torch.randn(1, 4, 3, 3)])
    assert (logits == 0).all() and (deltas == 0.25).all()


def test_weights_start_normal_with_the_given_deviation_and_biases_at_zero():
    head = RPNHead(64, 9, conv_dim=128, init_std=0.03)
    for layer in (head.conv, head.logits, head.deltas):
        assert abs(layer.weight.std().item() - 0.03) < 0.003
        assert abs(layer.weight.mean().item()) < 0.003
        assert not layer.bias.any()


def test_objectness_is_the_log_odds_of_an_object():
    logits = torch.randn(50, 2)
    torch.testing.assert_close(objectness(logits).sigmoid(), logits.softmax(dim=1)[:, 1])
    torch.testing.assert_close(objectness(logits[:, :1]).sigmoid(), logits[:, 0].sigmoid())


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_head_that_says_nothing_costs_ln_2_and_the_targets_themselves(kind, make_target):
    rpn = build_rpn({"MODEL.RPN.HEAD.OBJECTNESS": kind, "MODEL.RPN.BOX_LOSS.BETA": 0, "MODEL.RPN.BOX_LOSS_WEIGHT": 3})
    silence(rpn.head)
    # The square anchor of 32 at cell (2, 3) is (40, 24, 72, 56); the object is 4 to the right of it and 8 is added
    # to its height: IoU (28 * 32) / (32 * 32 + 32 * 40 - 28 * 32) = 0.636, below 0.7, but the best.
    targets = [make_target([[44, 24, 76, 64]], [1], seed=0)]
    generators = [torch.Generator().manual_seed(0)]
    _, losses = rpn([torch.randn(1, 4, 6, 8)], [(96, 128)], targets, generators)
    assert losses["loss_objectness"].item() == pytest.approx(math.log(2), abs=1e-6)
    matches, labels = rpn.match(rpn.anchor_generator([(6, 8)])[0], targets[0]["boxes"], (96, 128))
    assert (labels == 1).sum() == 1
    sampled = min(256, int((labels >= 0).sum()))
    expected = 3 * (4 / 32 + 4 / 32 + 0 + math.log(40 / 32)) / sampled
    assert losses["loss_rpn_box_reg"].item() == pytest.approx(expected, rel=1e-5)


def test_only_anchors_inside_the_true_image_train():
    rpn, everywhere = build_rpn(), build_rpn({"MODEL.RPN.INSIDE_ONLY": False})
    (anchors,) = rpn.anchor_generator([(6, 8)])
    gt_boxes = torch.tensor([[40.0, 24, 72, 56]])
    _, labels = rpn.match(anchors, gt_boxes, (90, 70))  # the batch is padded to 96 x 128
    x1, y1, x2, y2 = anchors.unbind(dim=1)
    inside = (x1 >= 0) & (y1 >= 0) & (x2 <= 70) & (y2 <= 90)
    assert (labels[~inside] == -1).all() and (labels[inside] != -1).any() and 0 < inside.sum() < len(anchors)
    _, labels = everywhere.match(anchors, gt_boxes, (90, 70))
    assert (labels[~inside] == 0).any()


def test_an_image_smaller_than_every_anchor_trains_nothing(make_target):
    rpn = build_rpn()
    _, losses = rpn([torch.randn(1, 4, 1, 1)], [(16, 16)], [make_target([[2, 2, 9, 9]], [1])])
    assert [loss.item() for loss in losses.values()] == [0, 0]
    sum(losses.values()).backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in rpn.head.parameters())


def test_proposals_carry_no_gradient_and_are_as_many_as_asked_for():
    rpn = build_rpn(
        {"MODEL.RPN.POST_NMS_TOP_N_TRAIN": 20, "MODEL.RPN.POST_NMS_TOP_N_TEST": 10, "MODEL.RPN.HEAD.INIT_STD": 0.1}
    )
    features, image_sizes = [torch.randn(2, 4, 6, 8)], [(96, 128), (80, 100)]
    for training, count in ((True, 20), (False, 10)):
        proposals, losses = rpn.train(training)(features, image_sizes)
        assert losses == {}
        assert [boxes.shape for boxes in proposals] == [(count, 4)] * 2
        for boxes, (height, width) in zip(proposals, image_sizes, strict=True):
            assert not boxes.requires_grad
            assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
            assert ((boxes[:, 2:] - boxes[:, :2]) >= 16).all()


def test_several_levels_share_the_head_and_their_predictions_stay_apart(make_target):
    rpn = build_rpn({"MODEL.RPN.ANCHOR_GENERATOR.SIZES": [[32], [64]]}, channels=(4, 4), strides=(16, 32))
    features = [torch.randn(1, 4, 6, 8), torch.randn(1, 4, 3, 4)]
    proposals, losses = rpn(features, [(96, 128)], [make_target([[40, 24, 72, 56]], [1])])
    assert len(proposals) == 1 and all(loss.isfinite() for loss in losses.values())


def test_the_stride_is_the_backbones():
    rpn = build_rpn(strides=(8,))
    (anchors,) = rpn.anchor_generator([(1, 2)])
    torch.testing.assert_close(anchors[[0, 6]].mean(dim=1), torch.tensor([4.0, 8.0]))  # centers (4, 4) and (12, 4)


def test_levels_that_one_head_cannot_serve_are_refused():
    with pytest.raises(UserError, match=r"MODEL.RPN.HEAD: .*\[4, 5\] channels"):
        build_rpn(channels=(4, 5), strides=(16, 32))
    with pytest.raises(UserError, match=r"MODEL.RPN.HEAD: .*\[3, 6\] anchors per cell"):
        build_rpn({"MODEL.RPN.ANCHOR_GENERATOR.SIZES": [[32], [64, 128]]}, channels=(4, 4), strides=(16, 32))


def test_an_anchor_in_an_ignored_region_has_no_loss():
    rpn = build_rpn({"MODEL.RPN.INSIDE_ONLY": False, "MODEL.RPN.SAMPLER": {"NAME": "AllSampler"}})
    anchors = torch.tensor([[0.0, 0, 32, 32], [16, 0, 48, 32], [17, 0, 49, 32], [60, 60, 92, 92], [4, 4, 30, 30]])
    targets = [{"boxes": anchors[4:], "ignored": torch.tensor([[0.0, 0, 32, 64]])}]
    logits = torch.zeros(1, 5, 2, requires_grad=True)
    losses = rpn.losses(anchors, logits, torch.zeros(1, 5, 4), [(96, 96)], targets, None)
    losses["loss_objectness"].backward()

    # Half of the second anchor is ignored, but less of the third. The last one is an object's, so it stays positive.
    assert logits.grad.any(dim=2).tolist() == [[False, False, True, True, True]]
    assert losses["loss_objectness"].item() == pytest.approx(math.log(2))
