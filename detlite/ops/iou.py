"""Maxima of the IoUs between many boxes and many objects, in bounded memory.

Letters: R boxes, M objects.
"""

import torch
from torchvision.ops import box_iou

# Number of IoUs computed at once.
PAIRS = 2**19  # 2 MiB per float32 matrix, which fits into a CPU's cache
PAIRS_ON_GPU = 2**25  # 128 MiB per float32 matrix
TIE = 1e-6  # IoUs this close count as equal: rounding to float32 may make equal overlaps differ


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

    The IoUs are those of ``box_iou(gt_boxes, boxes)``, computed in chunks of boxes.

    Args:
        boxes: (R, 4).
        gt_boxes: (M, 4).
        find_best: False skips the search for best boxes and returns none.

    Returns:
        ious: (R,), the largest of each box; 0 if M = 0.
        objects: (R,) int64, the object with that IoU; 0 if M = 0.
        best_boxes: int64 indices of the boxes with an object's largest IoU. An object has several if they tie, and none
            if no box overlaps it.

    >>> max_iou(torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3]]), torch.tensor([[9.0, 9, 10, 10], [0, 0, 4, 2]]))
    (tensor([0.5000, 0.6667]), tensor([1, 1]), tensor([1]))
    """
    if not len(boxes) or not len(gt_boxes):
        objects = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        return boxes.new_zeros(len(boxes)), objects, objects[:0]

    ious, objects, object_ious, candidates = [], [], [], []
    num_pairs = PAIRS if boxes.device.type == "cpu" else PAIRS_ON_GPU
    start = 0
    for chunk in boxes.split(max(1, num_pairs // len(gt_boxes))):
        iou = box_iou(gt_boxes, chunk)  # [M, chunk]
        best = iou.max(dim=0)
        ious.append(best.values)
        objects.append(best.indices)

        # Candidates for an object's best box: the chunk's boxes with the object's largest IoU in the chunk.
        if find_best:
            chunk_maximum = iou.amax(dim=1)  # [M]
            object_ious.append(chunk_maximum)
            row, column = ((iou >= chunk_maximum[:, None] - TIE) & (iou > 0)).nonzero(as_tuple=True)
            candidates.append((start + column, row, iou[row, column]))
        start += len(chunk)

    # A candidate is an object's best box if no chunk has a larger IoU with the object.
    ious, objects = torch.cat(ious), torch.cat(objects)
    if not find_best:
        return ious, objects, objects[:0]
    maximum = torch.stack(object_ious).amax(dim=0)  # [M]
    box, gt_box, iou = map(torch.cat, zip(*candidates, strict=True))
    return ious, objects, box[iou >= maximum[gt_box] - TIE]
