"""From the RPN's predictions to proposals."""

import torch
from torchvision.ops import batched_nms, clip_boxes_to_image, nms, remove_small_boxes

from detlite.ops.boxes import overlap_any

PAIRS = 2**17  # boxes of a block times survivors, compared at once: half a MiB a matrix, which a core's cache holds


def select_proposals(boxes, scores, image_size, *, min_size, pre_nms_top_n, nms_iou, post_nms_top_n):
    """One image's proposals: clip, drop small ones, keep the best of each level, NMS, keep the best (section 3.3).

    Args:
        boxes: per level (R, 4), decoded.
        scores: per level (R,); only their order matters.
        image_size: (height, width) of the image itself, without padding.
        min_size: shortest side kept, in pixels.
        pre_nms_top_n: boxes of each level that enter NMS.
        nms_iou: boxes that overlap a better one of their level more than this are dropped.
        post_nms_top_n: proposals kept over all levels.

    Returns:
        proposals (S, 4) and scores (S,), best first.
    """
    kept_boxes, kept_scores, levels = [], [], []
    for level, (level_boxes, level_scores) in enumerate(zip(boxes, scores, strict=True)):
        level_boxes = clip_boxes_to_image(level_boxes, image_size)
        keep = remove_small_boxes(level_boxes, min_size)
        level_scores, order = level_scores[keep].sort(descending=True, stable=True)
        keep = keep[order[:pre_nms_top_n]]
        kept_boxes.append(level_boxes[keep])
        kept_scores.append(level_scores[:pre_nms_top_n])
        levels.append(torch.full_like(keep, level))
    boxes, scores, levels = torch.cat(kept_boxes), torch.cat(kept_scores), torch.cat(levels)
    if len(kept_boxes) == 1:
        keep = nms_first(boxes, scores, nms_iou, post_nms_top_n)
    else:
        keep = batched_nms(boxes, scores, levels, nms_iou)[:post_nms_top_n]
    return boxes[keep], scores[keep]


def nms_first(boxes, scores, iou, count):
    """The first ``count`` survivors of NMS, of boxes that are sorted by score.

    Greedy NMS decides on a box from better ones alone, so on a CPU it goes on block by block, and ends as soon as there
    are enough: mostly long before the last box. A block is compared with all survivors as one matrix.

    Args:
        boxes: (R, 4), best first.
        scores: (R,), descending.
        iou: boxes that overlap a better one more than this are dropped.
        count: survivors wanted.

    Returns:
        (S,) int64 indices, S <= count.
    """
    if boxes.device.type != "cpu":
        return nms(boxes, scores, iou)[:count]
    keep, start = torch.zeros(0, dtype=torch.int64), 0
    while start < len(boxes) and len(keep) < count:
        size = max(16, PAIRS // (len(keep) + 256))
        block = torch.arange(start, min(start + size, len(boxes)))
        block = block[~overlap_any(boxes[block], boxes[keep], iou)]
        keep = torch.cat([keep, block[nms(boxes[block], scores[block], iou)]])
        start += size
    return keep[:count]
