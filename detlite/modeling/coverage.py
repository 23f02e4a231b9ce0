"""Count the objects that anchors and proposals overlap well: the log shows early if they suit the data.

Letters: N images, M objects, R boxes.
"""

import torch

from detlite.ops.batches import pad_boxes
from detlite.ops.iou import iou_of_pairs

COVERING_IOU = 0.5


@torch.no_grad()
def covered_objects(boxes, gt_boxes, matches, labels):
    """Count the objects that a positive box matched to them overlaps at an IoU of 0.5 or more.

    Without the limit nearly all objects would count, because each object's best anchor is positive at any IoU. Matches
    and labels (R,) are a matcher's results. Matches may be too large where labels are not positive.

    >>> boxes = torch.tensor([[0., 0., 10., 10.], [0., 0., 40., 40.]])
    >>> gt_boxes = torch.tensor([[0., 0., 10., 8.], [0., 0., 20., 10.]])
    >>> covered_objects(boxes, gt_boxes, torch.tensor([0, 1]), torch.tensor([1, 1]))
    tensor(1)
    """
    is_covered = torch.zeros(len(gt_boxes), dtype=torch.int64, device=boxes.device)
    if len(gt_boxes):
        matches = matches.clamp(max=len(gt_boxes) - 1)
        covers = (labels == 1) & (iou_of_pairs(boxes, gt_boxes[matches]) >= COVERING_IOU)  # [R]
        is_covered.scatter_reduce_(0, matches, covers.long(), "amax")
    return is_covered.sum()


@torch.no_grad()
def proposal_recall(proposals, targets):
    """Return the number of objects that a proposal overlaps at an IoU of 0.5 or more, and the number of all objects."""
    gt_boxes = [target["boxes"] for target in targets]
    num_objects = sum(map(len, gt_boxes))
    if not num_objects or not sum(map(len, proposals)):
        return 0, num_objects

    # The padding has no area, so its IoUs are 0, or NaN between padding and padding.
    objects, _ = pad_boxes(gt_boxes)
    boxes, _ = pad_boxes(proposals)
    iou = iou_of_pairs(objects[:, :, None], boxes[:, None])  # [N, M, R]
    return (iou >= COVERING_IOU).any(dim=2).sum(), num_objects
