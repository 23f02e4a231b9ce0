"""Non-maximum suppression that ends as soon as enough boxes are kept."""

import numpy as np
import torch
from torchvision.ops import nms

from detlite.ops.cpu import has_cpu_kernel

PAIRS = 2**17  # IoUs computed at once: half a MiB per float32 matrix, which fits into a core's cache


def nms_first(boxes, scores, iou_threshold, count):
    """Return the first boxes that NMS keeps: ``torchvision.ops.nms(...)[:count]``.

    Greedy NMS decides on a box from better boxes alone. So on the CPU it runs block by block, and ends when ``count``
    boxes are kept, mostly long before the last box.

    Args:
        boxes: (R, 4), best first.
        scores: (R,), descending.
        iou_threshold: boxes that overlap a better one more than this are dropped.
        count: maximum number of indices (S,) int64 returned.
    """
    if not has_cpu_kernel(boxes):
        return nms(boxes, scores, iou_threshold)[:count]

    keep = torch.zeros(0, dtype=torch.int64)
    start = 0
    while start < len(boxes) and len(keep) < count:
        # The more boxes are kept, the smaller the block, so that their IoUs stay in the cache.
        size = max(16, PAIRS // (len(keep) + 256))
        block = torch.arange(start, min(start + size, len(boxes)))

        # Drop what the boxes kept so far suppress, by one matrix; then run NMS inside the block.
        block = block[~overlap_any(boxes[block], boxes[keep], iou_threshold)]
        keep = torch.cat([keep, block[nms(boxes[block], scores[block], iou_threshold)]])
        start += size
    return keep[:count]


def overlap_any(boxes, others, iou_threshold):
    """Check which boxes (R, 4) overlap any of the others (S, 4) too much: (R,) bool.

    Bitwise equal to ``torchvision.ops.nms``: the ratio is computed in float32 and compared in float64. numpy does it in
    one thread. torch shares matrices of this size among threads, and where other programs use the cores, one thread
    waits for the other many times as long as the work takes.

    >>> overlap_any(torch.tensor([[0.0, 0, 4, 2], [4, 0, 6, 2]]), torch.tensor([[0.0, 0, 2, 2], [0, 0, 4, 1]]), 0.4)
    tensor([ True, False])
    """
    x1, y1, x2, y2 = boxes.detach().numpy().T[:, :, None]  # [R, 1]
    other_x1, other_y1, other_x2, other_y2 = np.ascontiguousarray(others.detach().numpy().T)  # [S]

    # All in place, because (R, S) matrices fill the cache.
    shared = np.minimum(x2, other_x2)
    shared -= np.maximum(x1, other_x1)
    height = np.minimum(y2, other_y2)
    height -= np.maximum(y1, other_y1)
    shared = np.maximum(shared, 0, out=shared)
    shared *= np.maximum(height, 0, out=height)
    union = (x2 - x1) * (y2 - y1) + (other_x2 - other_x1) * (other_y2 - other_y1)
    union -= shared

    # Boxes without area have the IoU 0 / 0, and overlap none.
    with np.errstate(divide="ignore", invalid="ignore"):
        return torch.from_numpy((np.divide(shared, union, out=union) > np.float64(iou_threshold)).any(axis=1))
