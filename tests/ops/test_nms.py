import pytest
import torch
from torchvision.ops import box_iou, nms

from detlite.ops import nms as nms_module
from detlite.ops.nms import nms_first, overlap_any


def random_boxes(count, generator):
    corners = torch.rand(count, 2, generator=generator) * 100
    return torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * 80], dim=1)


def test_a_thousand_random_cases_agree_with_torchvisions_nms(monkeypatch):
    monkeypatch.setattr(nms_module, "PAIRS", 64)  # blocks of 16 boxes
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
        size, count = torch.randint(1, 80, (2,), generator=generator).tolist()
        boxes = random_boxes(size, generator)
        scores = torch.rand(size, generator=generator).sort(descending=True).values
        threshold = float(torch.rand((), generator=generator))
        assert torch.equal(nms_first(boxes, scores, threshold, count), nms(boxes, scores, threshold)[:count])


@pytest.mark.parametrize("count", [1, 2, 100])
@pytest.mark.parametrize(
    "boxes",
    [
        torch.zeros(0, 4),
        torch.tensor([[1.0, 2, 30, 40]]),
        torch.tensor([[1.0, 2, 30, 40]]).expand(50, 4),
        torch.tensor([[5.0, 5, 5, 5]]).expand(50, 4),  # without area
        torch.tensor([[5.0, 5, 5, 5], [0, 0, 10, 10], [5, 0, 5, 10]]),
    ],
)
def test_degenerate_boxes_agree_with_torchvisions_nms(boxes, count):
    scores = torch.linspace(1, 0, len(boxes))
    assert torch.equal(nms_first(boxes, scores, 0.5, count), nms(boxes, scores, 0.5)[:count])


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
