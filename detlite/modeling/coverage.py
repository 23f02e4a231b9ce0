"""Objects that anchors and proposals reach: early signs of a detector's result.

Letters: M objects, R boxes.
"""

import torch
from torch.nn.utils.rnn import pad_sequence

from detlite.ops.iou import iou_of_pairs

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
    reached = torch.zeros(len(gt_boxes), dtype=torch.int64, device=boxes.device)
    if len(gt_boxes):
        iou = iou_of_pairs(boxes, gt_boxes[matches])
        reaches = (labels == 1) & (iou >= REACHED_IOU)
        reached.scatter_reduce_(0, matches, reaches.long(), "amax")
    return reached.sum()


@torch.no_grad()
def proposal_recall(proposals, targets):
    """Count the objects that a proposal overlaps at an IoU of 0.5 or more, and all.

    Args:
        proposals: for each image (R_i, 4).
        targets: for each image a dict with "boxes" (M_i, 4).
    """
    gt_boxes = [target["boxes"] for target in targets]
    num_objects = sum(map(len, gt_boxes))
    if not num_objects or not sum(map(len, proposals)):
        return 0, num_objects

    # Padding boxes have no area, so they reach nothing.
    objects, boxes = pad_sequence(gt_boxes, batch_first=True), pad_sequence(proposals, batch_first=True)
    iou = iou_of_pairs(objects[:, :, None], boxes[:, None])  # [N, M, R]
    return (iou >= REACHED_IOU).any(dim=2).sum(), num_objects
