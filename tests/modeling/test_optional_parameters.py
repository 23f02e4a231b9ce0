"""Optional parameters of matchers and samplers: boxes_per_level and losses."""

import math

import pytest
import torch


class HighestLossSampler:
    """The positive and the negative box with the highest loss; remembers the losses."""

    def __call__(self, labels, generator, losses):
        self.losses = losses()
        return tuple(torch.where(labels == wanted, self.losses, -1.0).topk(1).indices for wanted in (1, 0))


class LevelsMatcher:
    """Nothing is positive; remembers how many boxes each level has."""

    def __call__(self, boxes, gt_boxes, boxes_per_level):
        assert sum(boxes_per_level) == len(boxes)
        self.boxes_per_level = boxes_per_level
        return torch.zeros(len(boxes), dtype=torch.int64), torch.zeros(len(boxes), dtype=torch.int64)


@pytest.fixture
def image():
    return torch.rand(3, 96, 128)  # 6 x 8 cells of 6 anchors


@pytest.fixture
def target(make_target):
    return make_target([[20, 30, 60, 80]], [2])


def test_the_rpn_gives_a_sampler_the_class_loss_of_every_anchor(narrow_model, image, target):
    model = narrow_model({"MODEL.RPN.INSIDE_ONLY": False})
    model.rpn.sampler = sampler = HighestLossSampler()
    model([image], [target])
    assert sampler.losses.shape == (6 * 8 * 6,)
    assert not sampler.losses.requires_grad
    assert sampler.losses.mean().item() == pytest.approx(math.log(2), abs=0.1)  # untrained: even odds


def test_the_roi_heads_give_a_sampler_the_class_loss_of_every_proposal(narrow_model, image, target):
    model = narrow_model({"MODEL.RPN.POST_NMS_TOP_N_TRAIN": 30})
    model.roi_heads.sampler = sampler = HighestLossSampler()
    losses = model([image], [target])
    assert 1 < len(sampler.losses) <= 30 + 1  # and the object
    assert not sampler.losses.requires_grad
    worst = sampler.losses.max().item()
    assert losses["loss_classifier"].item() <= worst + 1e-5  # the mean of two of them, one being the worst negative


@pytest.mark.parametrize("inside_only", [True, False])
def test_the_rpn_tells_a_matcher_how_many_anchors_each_level_has(inside_only, narrow_model, image, target):
    model = narrow_model({"MODEL.RPN.INSIDE_ONLY": inside_only})
    model.rpn.matcher = matcher = LevelsMatcher()
    model([image], [target])
    (count,) = matcher.boxes_per_level
    assert count < 6 * 8 * 6 if inside_only else count == 6 * 8 * 6


def test_the_roi_heads_tell_a_matcher_that_proposals_have_one_level(narrow_model, image, target):
    model = narrow_model()
    model.roi_heads.matcher = matcher = LevelsMatcher()
    model([image], [target])
    assert len(matcher.boxes_per_level) == 1
