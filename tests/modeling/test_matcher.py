from unittest import mock

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from detlite.errors import UserError
from detlite.modeling.matcher import MaxIoUMatcher, exclude_ignored
from detlite.registry import MATCHERS

OBJECT = [0.0, 0.0, 10.0, 10.0]


def with_top(*heights):
    """Boxes inside OBJECT that share its base: their IoU with it is height / 10."""
    return torch.tensor([[0, 0, 10, height] for height in heights], dtype=torch.float32)


def match_iou(matcher, iou):
    """Match boxes whose IoUs with the objects, (M, R), are given."""
    objects, boxes = iou.shape
    with mock.patch("detlite.ops.iou.box_iou", return_value=iou):
        return matcher(torch.zeros(boxes, 4), torch.zeros(objects, 4))


def test_matches_and_labels_have_their_published_values():
    iou = torch.tensor([[0.15, 0.45, 0.2, 0.6], [0.3, 0.65, 0.05, 0.1], [0.05, 0.4, 0.25, 0.4]])
    matches, labels = match_iou(MaxIoUMatcher(foreground_iou=0.5, background_iou=0.3, keep_best=False), iou)
    assert matches.tolist() == [1, 1, 2, 0]
    assert labels.tolist() == [-1, 1, 0, 1]


def test_thresholds_belong_to_the_upper_side():
    matcher = MaxIoUMatcher(foreground_iou=0.5, background_iou=0.25, background_iou_low=0.125, keep_best=False)
    heights = (5, 4.99, 2.5, 2.49, 1.25, 1.24)
    assert matcher(with_top(*heights), torch.tensor([OBJECT]))[1].tolist() == [1, -1, -1, 0, 0, -1]


def test_the_best_box_of_an_object_is_positive_however_low():
    boxes, gt_boxes = with_top(1, 2, 0.5), torch.tensor([OBJECT])
    assert MaxIoUMatcher(keep_best=True)(boxes, gt_boxes)[1].tolist() == [0, 1, 0]
    assert MaxIoUMatcher(keep_best=False)(boxes, gt_boxes)[1].tolist() == [0, 0, 0]


def test_a_box_that_is_an_objects_best_still_stands_for_the_object_it_overlaps_most():
    iou = torch.tensor([[0.9, 0.8], [0.4, 0.0]])
    matches, labels = match_iou(MaxIoUMatcher(), iou)
    assert matches.tolist() == [0, 0] and labels.tolist() == [1, 1]


def test_boxes_that_tie_for_an_object_up_to_float32_are_all_its_best():
    generator = torch.Generator().manual_seed(0)
    unequal = 0
    for _ in range(300):
        half, y_half, center = (torch.rand(3, generator=generator) * torch.tensor([40, 40, 100.0]) + 20).tolist()
        gt_boxes = torch.tensor([[center - half, center - y_half, center + half, center + y_half]])
        boxes = gt_boxes + torch.tensor([[5.0, 0, 5, 0], [-5, 0, -5, 0], [9, 9, 9, 9]])  # right, left, further
        iou = box_iou(gt_boxes, boxes)[0]
        unequal += int(iou[0] != iou[1])
        assert MaxIoUMatcher(foreground_iou=1, background_iou=1)(boxes, gt_boxes)[1].tolist() == [1, 1, 0]
    assert unequal > 0, "no case in which == would have lost a tie"


def test_ious_that_differ_by_more_than_a_millionth_do_not_tie():
    assert match_iou(MaxIoUMatcher(), torch.tensor([[0.5, 0.5 - 5e-7, 0.5 - 5e-6]]))[1].tolist() == [1, 1, -1]


def test_an_object_that_no_box_overlaps_makes_none_positive_unlike_torchvision():
    boxes, gt_boxes = with_top(10, 1), torch.tensor([OBJECT, [50.0, 50.0, 60.0, 60.0]])
    matches, labels = MaxIoUMatcher()(boxes, gt_boxes)
    assert matches.tolist() == [0, 0] and labels.tolist() == [1, 0]
    theirs = Matcher(0.7, 0.3, allow_low_quality_matches=True)(box_iou(gt_boxes, boxes))
    assert (theirs >= 0).all()


@pytest.mark.parametrize("keep_best", [True, False])
def test_no_objects_makes_every_box_negative(keep_best):
    matches, labels = MaxIoUMatcher(keep_best=keep_best)(with_top(1, 2), torch.zeros(0, 4))
    assert matches.tolist() == [0, 0] and matches.dtype == torch.int64
    assert labels.tolist() == [0, 0] and labels.dtype == torch.int64


@pytest.mark.parametrize("objects", [0, 1, 2])
def test_no_boxes_have_no_matches(objects):
    matches, labels = MaxIoUMatcher()(torch.zeros(0, 4), torch.tensor([OBJECT] * objects).reshape(-1, 4))
    assert matches.shape == labels.shape == (0,) and matches.dtype == labels.dtype == torch.int64


def test_one_box_and_one_object():
    matches, labels = MaxIoUMatcher()(torch.tensor([OBJECT]), torch.tensor([OBJECT]))
    assert matches.tolist() == [0] and labels.tolist() == [1]


@pytest.mark.parametrize("keep_best", [True, False])
def test_a_thousand_random_cases_agree_with_torchvision(keep_best):
    generator = torch.Generator().manual_seed(0)
    ours = MaxIoUMatcher(foreground_iou=0.7, background_iou=0.3, keep_best=keep_best)
    theirs = Matcher(0.7, 0.3, allow_low_quality_matches=keep_best)
    for _ in range(1000):
        objects, boxes = torch.randint(1, 30, (2,), generator=generator).tolist()
        iou = torch.rand(objects, boxes, generator=generator, dtype=torch.float64) ** 2 + 1e-9  # no ties, none zero
        matches, labels = match_iou(ours, iou)
        expected = theirs(iou)
        assert torch.equal(labels, torch.where(expected >= 0, 1, expected + 1).clamp(min=-1))
        assert torch.equal(matches[labels == 1], expected[labels == 1])


@pytest.mark.parametrize("keys", [{"FOREGROUND_IOU": 0.2}, {"BACKGROUND_IOU": -0.1}, {"BACKGROUND_IOU_LOW": 0.4}])
def test_thresholds_out_of_order_are_refused(keys):
    with pytest.raises(UserError, match="need 0 <= background_iou_low"):
        MATCHERS.build({"NAME": "MaxIoUMatcher", **keys})


def test_negative_boxes_half_inside_an_ignored_region_are_excluded():
    boxes = torch.tensor([[0.0, 0, 20, 10], [0, 0, 21, 10], [0, 0, 10, 10], [50, 50, 60, 60]])
    labels = [torch.tensor([0, 0, 1, -1]), torch.tensor([0, 0, 1, 0])]
    exclude_ignored(labels, [boxes, boxes], [{"ignored": torch.tensor([[0.0, 0, 10, 10]])}, {}])
    assert [image.tolist() for image in labels] == [[-1, 0, 1, -1], [0, 0, 1, 0]]
