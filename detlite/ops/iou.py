"""Maxima of the IoUs between many boxes and many objects, in bounded memory.

Letters: R boxes, M objects.
"""

import torch
from torchvision.ops import box_iou

PAIRS = 2**19  # IoUs computed at once: they fit into the cache, and 1,000 objects need no gigabytes
PAIRS_ON_GPU = 2**25  # 128 MiB per float32 matrix
TIE = 1e-6  # IoUs this close are equal: in float32, two equal overlaps may differ in their last bits


def pairs_at_once(boxes):
    """Return how many IoUs to compute at once, on the boxes' device."""
    return PAIRS if boxes.device.type == "cpu" else PAIRS_ON_GPU


def iou_of_pairs(boxes, others):
    """Return the IoU of each pair of boxes (..., 4) and others (..., 4), which broadcast.

    Bitwise equal to the elements of ``torchvision.ops.box_iou``.

    >>> iou_of_pairs(torch.tensor([0.0, 0, 4, 4]), torch.tensor([[0.0, 0, 4, 2], [9, 9, 10, 10]]))
    tensor([0.5000, 0.0000])
    """
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    other_x1, other_y1, other_x2, other_y2 = others.unbind(dim=-1)
    width = (torch.minimum(x2, other_x2) - torch.maximum(x1, other_x1)).clamp(min=0)
    height = (torch.minimum(y2, other_y2) - torch.maximum(y1, other_y1)).clamp(min=0)
    shared = width * height
    return shared / ((x2 - x1) * (y2 - y1) + (other_x2 - other_x1) * (other_y2 - other_y1) - shared)


def max_iou(boxes, gt_boxes, find_best=True):
    """Return each box's largest IoU, its object, and the best boxes of all objects.

    Equal to the maxima of ``box_iou(gt_boxes, boxes)`` over both axes, but computed in chunks of boxes.

    Args:
        boxes: (R, 4).
        gt_boxes: (M, 4).
        find_best: False skips the third result, which is then empty.

    Returns:
        IoUs (R,) and objects (R,) int64, both 0 where M = 0; and int64 indices of the boxes with the largest IoU of an
        object: several where they tie, none for an object that no box overlaps.

    >>> max_iou(torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3]]), torch.tensor([[9.0, 9, 10, 10], [0, 0, 4, 2]]))
    (tensor([0.5000, 0.6667]), tensor([1, 1]), tensor([1]))
    """
    if not len(boxes) or not len(gt_boxes):
        objects = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        return boxes.new_zeros(len(boxes)), objects, objects[:0]

    # Per chunk: each box's maximum and its object, each object's maximum, and pairs that may be an object's maximum.
    ious, objects, object_ious, candidates = [], [], [], []
    start = 0
    for chunk in boxes.split(max(1, pairs_at_once(boxes) // len(gt_boxes))):
        iou = box_iou(gt_boxes, chunk)  # [M, chunk]
        best = iou.max(dim=0)
        ious.append(best.values)
        objects.append(best.indices)

        # Only pairs near their object's maximum in the chunk can be near its maximum over all boxes.
        if find_best:
            object_ious.append(iou.max(dim=1).values)
            pairs = ((iou >= object_ious[-1][:, None] - TIE) & (iou > 0)).nonzero(as_tuple=True)
            candidates.append((start + pairs[1], pairs[0], iou[pairs]))
        start += len(chunk)

    # A candidate is the best if it is near its object's maximum over all chunks.
    ious, objects = torch.cat(ious), torch.cat(objects)
    if not find_best:
        return ious, objects, objects[:0]
    object_iou = torch.stack(object_ious).amax(dim=0)  # [M]
    best_boxes = [box[iou >= object_iou[of] - TIE] for box, of, iou in candidates]
    return ious, objects, torch.cat(best_boxes)
