"""Parts that are no default: each against its paper's arithmetic or an independent implementation."""

import math

import pytest
import torch
from torchvision.ops import box_iou, sigmoid_focal_loss

from detlite.errors import UserError
from detlite.modeling.box_coder import LTRBBoxCoder
from detlite.modeling.losses import CIoULoss, CrossEntropyLoss, DIoULoss, FocalLoss, GIoULoss, L1Loss
from detlite.modeling.matcher import ATSSMatcher, TopKMatcher
from detlite.modeling.rpn.head import RPNHead
from detlite.modeling.sampler import AllSampler, HardNegativeSampler

BOX = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
NESTED = torch.tensor([[1.0, 1.0, 3.0, 3.0]])
DISJOINT = torch.tensor([[6.0, 0.0, 10.0, 4.0]])


def random_boxes(count, generator, size=100):
    corners = torch.rand(count, 2, generator=generator) * size
    return torch.cat([corners, corners + 2 + torch.rand(count, 2, generator=generator) * size / 2], dim=1)


@pytest.mark.parametrize("loss", [GIoULoss(), DIoULoss(), CIoULoss()])
def test_equal_boxes_cost_nothing(loss):
    assert loss.space == "boxes"
    torch.testing.assert_close(loss(BOX, BOX), torch.zeros(1), atol=1e-6, rtol=0)


def test_giou_of_nested_and_disjoint_boxes():
    torch.testing.assert_close(GIoULoss()(BOX, NESTED), torch.tensor([1 - 4 / 16]))
    torch.testing.assert_close(GIoULoss()(BOX, DISJOINT), torch.tensor([1 + (10 * 4 - 2 * 16) / (10 * 4)]))


def test_diou_and_ciou_add_the_centers_distance_and_the_aspect_ratios():
    torch.testing.assert_close(DIoULoss()(BOX, DISJOINT), torch.tensor([1 + 6**2 / (10**2 + 4**2)]))
    wide = torch.tensor([[0.0, 1.0, 4.0, 3.0]])  # the same center, half as high
    aspect = (4 / math.pi**2) * (math.atan(4 / 4) - math.atan(4 / 2)) ** 2
    expected = 1 - 8 / 16 + aspect * aspect / (1 - 8 / 16 + aspect)
    torch.testing.assert_close(CIoULoss()(BOX, wide), torch.tensor([expected]))


def test_l1_is_summed_over_the_four_numbers():
    assert L1Loss()(torch.tensor([[1.0, -2.0, 0.0, 3.0]]), torch.zeros(1, 4)).tolist() == [6.0]


def test_focal_loss_of_one_column_is_torchvisions():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(50, 1, generator=generator) * 3, torch.arange(50) % 2
    expected = sigmoid_focal_loss(logits[:, 0], labels.float(), alpha=0.25, gamma=2)
    torch.testing.assert_close(FocalLoss()(logits, labels), expected)


def test_focal_loss_of_several_columns_weighs_cross_entropy_by_what_is_still_wrong():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, math.log(3.0)]])  # background 1/4, object 3/4
    expected = [0.25 * (1 / 4) ** 2 * -math.log(3 / 4), 0.75 * (3 / 4) ** 2 * -math.log(1 / 4)]
    torch.testing.assert_close(FocalLoss()(logits, torch.tensor([1, 0])), torch.tensor(expected))


def test_focal_loss_without_focus_is_weighted_cross_entropy():
    logits, labels = torch.randn(9, 4), torch.arange(9) % 4
    expected = torch.where(labels > 0, 0.25, 0.75) * CrossEntropyLoss()(logits, labels)
    torch.testing.assert_close(FocalLoss(gamma=0.0)(logits, labels), expected)


def test_focal_loss_is_divided_by_the_positive_boxes(narrow_model, make_target):
    changes = {
        "MODEL.RPN.CLASS_LOSS.NAME": "FocalLoss",
        "MODEL.RPN.SAMPLER.NAME": "AllSampler",
        "MODEL.RPN.INSIDE_ONLY": False,
        "MODEL.RPN.HEAD.INIT_STD": 1e-9,  # every anchor starts with even odds
    }
    model = narrow_model(changes)
    target = make_target([[20, 30, 60, 80]], [2])
    anchors = torch.cat(model.rpn.anchor_generator([(6, 8)]))
    _, labels = model.rpn.match(anchors, target["boxes"], (96, 128))
    positive, negative = (labels == 1).sum().item(), (labels == 0).sum().item()
    loss = model([torch.rand(3, 96, 128)], [target])["loss_objectness"]
    expected = (0.25 * positive + 0.75 * negative) * 0.5**2 * math.log(2) / positive
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("objectness", ["softmax", "sigmoid"])
def test_anchors_start_with_the_prior_score(objectness):
    head = RPNHead(4, 3, conv_dim=8, objectness=objectness, init_std=1e-9, object_prior=0.01)
    logits, _ = head([torch.rand(1, 4, 2, 2)])
    scores = logits[0].sigmoid() if objectness == "sigmoid" else logits[0].softmax(dim=2)[..., 1:]
    torch.testing.assert_close(scores, torch.full_like(scores, 0.01))


def test_all_boxes_that_are_not_ignored_are_sampled():
    positive, negative = AllSampler()(torch.tensor([0, 1, -1, 0, 1]))
    assert (positive.tolist(), negative.tolist()) == ([1, 4], [0, 3])


def test_the_negatives_with_the_highest_loss_are_sampled():
    labels = torch.tensor([0, 1, 0, 0, -1, 0])
    losses = torch.tensor([0.1, 9.0, 0.4, 0.3, 8.0, 0.2])
    sampler = HardNegativeSampler(num_samples=3, positive_fraction=0.5)
    positive, negative = sampler(labels, None, lambda: losses)
    assert (positive.tolist(), negative.tolist()) == ([1], [2, 3])
    positive, negative = sampler(torch.tensor([-1, 1]), None, lambda: losses[:2])
    assert (positive.tolist(), negative.tolist()) == ([1], [])


def test_sides_are_coded_in_the_boxs_widths_and_heights():
    boxes, objects = torch.tensor([[0.0, 0.0, 10.0, 20.0]]), torch.tensor([[-5.0, 2.0, 12.0, 30.0]])
    deltas = LTRBBoxCoder(weights=[1, 10, 1, 1]).encode(boxes, objects)
    torch.testing.assert_close(deltas, torch.tensor([[5 / 10, 10 * -2 / 20, 2 / 10, 10 / 20]]))


def test_decoding_sides_undoes_encoding():
    generator = torch.Generator().manual_seed(0)
    boxes, objects = random_boxes(1000, generator), random_boxes(1000, generator)
    coder = LTRBBoxCoder(weights=[1, 2, 3, 4])
    torch.testing.assert_close(coder.decode(boxes, coder.encode(boxes, objects)), objects, atol=1e-3, rtol=1e-4)


def test_sides_that_would_pass_each_other_meet():
    decoded = LTRBBoxCoder().decode(torch.tensor([[0.0, 0.0, 10.0, 20.0]]), torch.tensor([[-1.0, 0.0, -0.5, 0.0]]))
    assert decoded.tolist() == [[7.5, 0.0, 7.5, 20.0]]  # left went to 10, right to 5
    assert LTRBBoxCoder().decode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)


def atss(boxes, gt_boxes, counts, k):
    """Algorithm 1 of Zhang et al. 2020, one object and one box at a time."""
    matches, best = [0] * len(boxes), [-1.0] * len(boxes)
    iou = box_iou(gt_boxes, boxes)
    for g, (x1, y1, x2, y2) in enumerate(gt_boxes.tolist()):
        candidates, start = [], 0
        for count in counts:
            level = range(start, start + count)
            distance = {
                r: math.dist(
                    ((boxes[r, 0] + boxes[r, 2]) / 2, (boxes[r, 1] + boxes[r, 3]) / 2), ((x1 + x2) / 2, (y1 + y2) / 2)
                )
                for r in level
            }
            candidates += sorted(level, key=distance.get)[:k]
            start += count
        values = iou[g, candidates]
        threshold = values.mean() + values.std(correction=0)
        for r in candidates:
            x, y = (boxes[r, 0] + boxes[r, 2]) / 2, (boxes[r, 1] + boxes[r, 3]) / 2
            if iou[g, r] >= threshold and x1 < x < x2 and y1 < y < y2 and iou[g, r] > best[r]:
                matches[r], best[r] = g, iou[g, r].item()
    return matches, [int(value >= 0) for value in best]


@pytest.mark.parametrize("seed", range(20))
def test_atss_agrees_with_its_algorithm_in_plain_python(seed):
    generator = torch.Generator().manual_seed(seed)
    boxes, gt_boxes = random_boxes(60, generator), random_boxes(3, generator)
    counts = [40, 15, 5]
    matches, labels = ATSSMatcher(k=7)(boxes, gt_boxes, counts)
    expected_matches, expected_labels = atss(boxes, gt_boxes, counts, 7)
    assert labels.tolist() == expected_labels
    assert sum(expected_labels) > 0
    positive = labels == 1
    assert matches[positive].tolist() == torch.tensor(expected_matches)[positive].tolist()


def test_the_k_closest_boxes_are_positive_and_near_misses_are_ignored():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [2, 0, 12, 10], [0, 0, 20, 4], [50, 50, 60, 60]])
    gt_boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    matches, labels = TopKMatcher(k=2, ignore_iou=0.5)(boxes, gt_boxes)
    assert labels.tolist() == [1, 1, -1, 0, 0]  # the third overlaps 80 / 120
    assert matches[:2].tolist() == [0, 0]


def test_of_boxes_with_one_center_the_one_that_overlaps_more_is_closer():
    boxes = torch.tensor([[4.0, 4, 6, 6], [1, 1, 9, 9], [-20, -20, 30, 30]])
    _, labels = TopKMatcher(k=1)(boxes, torch.tensor([[0.0, 0.0, 10.0, 10.0]]))
    assert labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("matcher", [ATSSMatcher(), TopKMatcher()])
def test_no_objects_no_boxes_and_one_box(matcher):
    for boxes, objects in ((3, 0), (0, 2), (0, 0)):
        matches, labels = matcher(torch.rand(boxes, 4), torch.rand(objects, 4))
        assert matches.tolist() == labels.tolist() == [0] * boxes
        assert matches.dtype == labels.dtype == torch.int64
    matches, labels = matcher(BOX, BOX)
    assert (matches.tolist(), labels.tolist()) == ([0], [1])


@pytest.mark.parametrize(
    ("part", "keys"),
    [
        (FocalLoss, {"gamma": -1.0}),
        (ATSSMatcher, {"k": 0}),
        (TopKMatcher, {"ignore_iou": 2.0}),
        (LTRBBoxCoder, {"weights": [1.0]}),
    ],
)
def test_impossible_values_are_refused(part, keys):
    with pytest.raises(ValueError, match=str(next(iter(keys)))):
        part(**keys)


@pytest.mark.parametrize("space", ["RPN", "ROI_HEADS"])
@pytest.mark.parametrize(
    ("slot", "name"),
    [
        ("MATCHER", "ATSSMatcher"),
        ("MATCHER", "TopKMatcher"),
        ("SAMPLER", "AllSampler"),
        ("SAMPLER", "HardNegativeSampler"),
        ("BOX_CODER", "LTRBBoxCoder"),
        ("BOX_LOSS", "L1Loss"),
        ("BOX_LOSS", "GIoULoss"),
        ("BOX_LOSS", "DIoULoss"),
        ("BOX_LOSS", "CIoULoss"),
        ("CLASS_LOSS", "FocalLoss"),
    ],
)
def test_each_part_trains_every_parameter_and_detects_in_either_stage(slot, name, space, narrow_model, make_target):
    model = narrow_model({f"MODEL.{space}.{slot}.NAME": name, "MODEL.RPN.INSIDE_ONLY": False})
    images = [torch.rand(3, 96, 128), torch.rand(3, 80, 64)]
    targets = [make_target([[20, 30, 60, 80], [70, 10, 120, 60]], [2, 1], seed=1), make_target(seed=2)]
    losses = model(images, targets)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model.backbone.features[0].weight.grad.any()
    with torch.no_grad():
        assert len(model.eval()(images)) == 2


def test_a_key_of_the_part_that_was_replaced_is_refused(narrow_model):
    with pytest.raises(UserError, match="ATSSMatcher has no key FOREGROUND_IOU"):
        narrow_model({"MODEL.RPN.MATCHER.NAME": "ATSSMatcher", "MODEL.RPN.MATCHER.FOREGROUND_IOU": 0.5})
