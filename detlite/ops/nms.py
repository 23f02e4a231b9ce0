"""Non-maximum suppression that ends as soon as enough boxes are kept."""

import numpy as np
import torch
from torchvision.ops import nms

from detlite.ops.cpu import has_cpu_kernel

PAIRS = 2**17  # IoUs computed at once: half a MiB per float32 matrix, which fits into a core's cache
FIRST_PREFIX = 3  # boxes that NMS reads first on a GPU, for each one wanted


def nms_first(boxes, scores, iou_threshold, count):
    """Return the indices of the first boxes that NMS keeps: ``torchvision.ops.nms(...)[:count]``.

    Greedy NMS compares a box with better boxes only. So on the CPU it runs block by block, best boxes first, and
    stops when ``count`` boxes are kept, mostly long before the last box.

    Args:
        boxes: (R, 4), best first.
        scores: (R,), descending.
        iou_threshold: a box is dropped if its IoU with a better, kept box is higher than this.
        count: maximum number of returned indices, which are (S,) int64.
    """
    if not has_cpu_kernel(boxes):
        # On a GPU, more and more of the best boxes, until ``count`` of them are kept.
        size = FIRST_PREFIX * count
        while boxes.is_cuda and size < len(boxes):
            keep = nms(boxes[:size], scores[:size], iou_threshold)
            if len(keep) >= count:
                return keep[:count]
            size *= 2
        return nms(boxes, scores, iou_threshold)[:count]

    keep, start = torch.zeros(0, dtype=torch.int64), 0
    while start < len(boxes) and len(keep) < count:
        # The IoUs of a block with the kept boxes must fit into the cache. So blocks shrink as more boxes are kept.
        size = max(16, PAIRS // (len(keep) + 256))
        block = torch.arange(start, min(start + size, len(boxes)))

        # Drop the boxes of the block that overlap a kept box; then run NMS on the others.
        block = block[~overlap_any(boxes[block], boxes[keep], iou_threshold)]
        kept_in_block = nms(boxes[block], scores[block], iou_threshold)
        keep = torch.cat([keep, block[kept_in_block]])
        start += size
    return keep[:count]


def overlap_any(boxes, others, iou_threshold):
    """Check for each box (R, 4) if its IoU with any of the others (S, 4) exceeds a threshold: (R,) bool.

    Bitwise equal to ``torchvision.ops.nms``: the ratio is computed in float32 and compared in float64. numpy is used
    because it computes in one thread. If other programs use the cores, several threads wait more than they compute.

    >>> overlap_any(torch.tensor([[0.0, 0, 4, 2], [4, 0, 6, 2]]), torch.tensor([[0.0, 0, 2, 2], [0, 0, 4, 1]]), 0.4)
    tensor([ True, False])
    """
    x1, y1, x2, y2 = boxes.detach().numpy().T[:, :, None]  # each (R, 1)
    other_x1, other_y1, other_x2, other_y2 = np.ascontiguousarray(others.detach().numpy().T)  # each (S,)

    # Compute in place, because (R, S) matrices fill the cache. ``shared`` is first the width of the intersection.
    shared = np.minimum(x2, other_x2)
    shared -= np.maximum(x1, other_x1)
    height = np.minimum(y2, other_y2)
    height -= np.maximum(y1, other_y1)
    np.maximum(shared, 0, out=shared)
    shared *= np.maximum(height, 0, out=height)
    union = (x2 - x1) * (y2 - y1) + (other_x2 - other_x1) * (other_y2 - other_y1)
    union -= shared

    # Two boxes without area have the IoU 0 / 0, which is NaN and above no threshold.
    with np.errstate(divide="ignore", invalid="ignore"):
        is_above = np.divide(shared, union, out=union) > np.float64(iou_threshold)
    return torch.from_numpy(is_above.any(axis=1))
