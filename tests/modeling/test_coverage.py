"""Early numbers of a training pass, against plain counting."""

import torch
from torchvision.ops import box_iou

from detlite.modeling.coverage import covered_objects, proposal_recall


def random_boxes(count, seed):
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)) * 100
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1) + 1], dim=1)


def test_objects_are_covered_if_a_positive_box_of_theirs_overlaps_them_by_half():
    boxes, gt_boxes = random_boxes(300, 0), random_boxes(9, 1)
    draw = torch.Generator().manual_seed(2)
    matches = torch.randint(0, 9, (300,), generator=draw)
    matches[:150] = box_iou(gt_boxes, boxes[:150]).argmax(dim=0)
    labels = torch.randint(-1, 2, (300,), generator=draw)
    iou = box_iou(gt_boxes, boxes)
    covered = {
        int(match)
        for box, (match, label) in enumerate(zip(matches, labels, strict=True))
        if label == 1 and iou[match, box] >= 0.5
    }
    assert 0 < len(covered) < 9
    assert covered_objects(boxes, gt_boxes, matches, labels) == len(covered)


def test_nothing_is_covered_where_there_is_nothing():
    nothing, none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    assert covered_objects(nothing, random_boxes(3, 0), none, none) == 0
    negative = torch.zeros(5, dtype=torch.int64)
    assert covered_objects(random_boxes(5, 0), nothing, negative, negative) == 0
    assert proposal_recall([nothing, random_boxes(5, 0)], [{"boxes": random_boxes(3, 1)}, {"boxes": nothing}]) == (0, 3)


def test_recall_counts_objects_that_some_proposal_overlaps_by_half():
    gt_boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
    proposals = torch.tensor([[0.0, 0.0, 10.0, 5.0], [50.0, 50.0, 60.0, 54.9]])  # IoU 0.5 and 0.49
    assert proposal_recall([proposals], [{"boxes": gt_boxes}]) == (1, 2)
