import pytest
import torch
from torchvision import tv_tensors
from torchvision.ops import box_iou, nms
from torchvision.transforms.v2 import functional as F

from detlite.ops.boxes import boxes_inside, overlap_any, scale_boxes


def test_a_box_that_touches_the_border_is_inside():
    boxes = torch.tensor(
        [[0.0, 0.0, 100.0, 50.0], [-0.01, 0, 9, 9], [0, -0.01, 9, 9], [0, 0, 100.01, 9], [0, 0, 9, 50.01]]
    )
    assert boxes_inside(boxes, (50, 100)).tolist() == [True, False, False, False, False]


def test_no_boxes_are_inside_nothing():
    assert boxes_inside(torch.zeros(0, 4), (50, 100)).shape == (0,)
    assert scale_boxes(torch.zeros(0, 4), (50, 100), (10, 10)).shape == (0, 4)


def test_boxes_scale_as_torchvision_resizes_them():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(1000, 2, 2, generator=generator) * torch.tensor([200.0, 100.0])
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    theirs = F.resize(tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(100, 200)), [130, 90])
    torch.testing.assert_close(scale_boxes(boxes, (100, 200), (130, 90)), theirs.as_subclass(torch.Tensor))


def test_overlaps_are_torchvisions_to_the_bit():
    boxes = torch.rand(300, 4) * 100
    boxes = torch.cat([boxes.view(-1, 2, 2).sort(dim=1).values.flatten(1), torch.zeros(2, 4)])  # the last: without area
    theirs = box_iou(boxes[:50], boxes)
    for limit in (0.0, 0.3, 0.7, *theirs.flatten()[:100].tolist()):  # among them equal ones, which are not over it
        assert torch.equal(overlap_any(boxes[:50], boxes, limit), (theirs > limit).any(dim=1))
        assert torch.equal(overlap_any(boxes, boxes[:1], limit), theirs[0] > limit)
    assert not overlap_any(boxes, boxes[:0], 0.0).any() and not overlap_any(boxes[-2:], boxes[-2:], 0.0).any()


@pytest.mark.parametrize("limit", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_an_overlap_of_just_the_limit_counts_as_in_nms(limit):
    boxes = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10 * limit, 10]])
    kept = nms(boxes, torch.tensor([1.0, 0.5]), limit)
    assert overlap_any(boxes[1:], boxes[:1], limit).item() == (len(kept) == 1)
