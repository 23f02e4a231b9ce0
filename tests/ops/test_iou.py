import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import box_iou

from detlite.modeling.matcher import MaxIoUMatcher
from detlite.ops import iou as iou_module
from detlite.ops.iou import iou_of_pairs, max_iou


def random_boxes(count, generator):
    corners = torch.rand(count, 2, generator=generator) * 200
    return torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * 60 + 1], dim=1)


@pytest.mark.parametrize("pairs", [iou_module.PAIRS, 70 * 11, 1])
def test_maxima_are_box_ious_whatever_the_size_of_a_chunk(pairs, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(400, generator)
    gt_boxes = torch.cat([boxes[::40] + 3, torch.tensor([[900.0, 900, 910, 910]])])  # the last overlaps nothing
    boxes = torch.cat([boxes, boxes.flip(0)])  # every best box twice, in different chunks
    iou = box_iou(gt_boxes, boxes)
    monkeypatch.setattr(iou_module, "PAIRS", pairs)
    ious, objects, best_boxes = max_iou(boxes, gt_boxes)
    assert torch.equal(ious, iou.max(dim=0).values) and torch.equal(objects, iou.max(dim=0).indices)
    is_best = (iou == iou.max(dim=1, keepdim=True).values) & (iou > 0)
    assert sorted(best_boxes.tolist()) == is_best.any(dim=0).nonzero().flatten().tolist()
    assert len(best_boxes) == 20
    assert len(max_iou(boxes, gt_boxes, find_best=False)[2]) == 0


@pytest.mark.parametrize(("boxes", "objects"), [(0, 0), (0, 2), (3, 0)])
def test_no_boxes_or_no_objects_have_no_overlaps(boxes, objects):
    ious, matches, best_boxes = max_iou(torch.rand(boxes, 4), torch.rand(objects, 4))
    assert ious.tolist() == [0.0] * boxes and matches.tolist() == [0] * boxes and matches.dtype == torch.int64
    assert best_boxes.shape == (0,)


def test_boxes_taken_part_by_part_match_as_all_at_once(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(400, generator)
    gt_boxes = torch.cat([boxes[::40] + 3, torch.tensor([[900.0, 900, 910, 910]])])
    boxes = torch.cat([boxes, boxes.flip(0)])  # every best box twice, in different parts
    matcher = MaxIoUMatcher(foreground_iou=0.9, background_iou=0.3)
    whole = matcher(boxes, gt_boxes)
    monkeypatch.setattr("detlite.ops.iou.PAIRS", 70 * len(gt_boxes))
    for expected, found in zip(whole, matcher(boxes, gt_boxes), strict=True):
        assert torch.equal(expected, found)
    assert (whole[1] == 1).sum() >= 20


def test_a_thousand_objects_and_a_hundred_thousand_boxes_match_within_bounded_memory():
    """No intermediate tensor has more than twice PAIRS numbers; all IoUs together would take 400 MB."""
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            output = func(*args, **(kwargs or {}))
            for tensor in output if isinstance(output, (tuple, list)) else [output]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return output

    gt_boxes = torch.rand(1000, 4) + torch.tensor([0.0, 0, 1, 1])
    boxes = torch.rand(100_000 // 25, 4) + torch.tensor([0.0, 0, 1, 1])  # a 25th of them is enough to see
    with Sizes():
        _, labels = MaxIoUMatcher()(boxes, gt_boxes)
    assert len(labels) == len(boxes)
    assert largest <= 2 * iou_module.PAIRS


def test_pairs_are_equal_to_torchvisions_matrix_to_the_bit():
    corners, sizes = torch.rand(2, 100, 2, generator=torch.Generator().manual_seed(0)) * 100
    boxes = torch.cat([corners, corners + sizes], dim=1)
    boxes[5, 2:] = boxes[5, :2]  # without area
    assert torch.equal(
        iou_of_pairs(boxes[:, None], boxes[:30]).nan_to_num(-1), box_iou(boxes, boxes[:30]).nan_to_num(-1)
    )
