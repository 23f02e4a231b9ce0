"""Objects that anchors and proposals reach: early signs of a detector's result.

Letters: M objects, R boxes.
"""

import torch
from torchvision.ops import box_iou

REACHED_IOU = 0.5


@torch.no_grad()
def covered_objects(boxes, gt_boxes, matches, labels):
    """Count the objects that a positive box overlaps at an IoU of 0.5 or more.

    A matcher's best-anchor rule gives a positive box to nearly every object, however badly it fits.

    Args:
        boxes: (R, 4).
        gt_boxes: (M, 4).
        matches, labels: (R,) each, a matcher's results.

    >>> boxes = torch.tensor([[0., 0., 10., 10.], [0., 0., 40., 40.]])
    >>> gt_boxes = torch.tensor([[0., 0., 10., 8.], [0., 0., 20., 10.]])
    >>> covered_objects(boxes, gt_boxes, torch.tensor([0, 1]), torch.tensor([1, 1]))
    tensor(1)
    """
    positive = (labels == 1).nonzero().flatten()
    objects = matches[positive]
    iou = box_iou(boxes[positive], gt_boxes).gather(1, objects[:, None])[:, 0]
    reached = torch.zeros(len(gt_boxes), dtype=torch.bool, device=boxes.device)
    reached[objects[iou >= REACHED_IOU]] = True
    return reached.sum()


@torch.no_grad()
def proposal_recall(proposals, targets):
    """Count the objects that a proposal overlaps at an IoU of 0.5 or more, and all.

    Args:
        proposals: for each image (R_i, 4).
        targets: for each image a dict with "boxes" (M_i, 4).
    """
    num_reached = num_objects = 0
    for boxes, target in zip(proposals, targets, strict=True):
        gt_boxes = target["boxes"]
        num_objects += len(gt_boxes)
        if len(boxes):
            num_reached += (box_iou(gt_boxes, boxes) >= REACHED_IOU).any(dim=1).sum()
    return num_reached, num_objects
