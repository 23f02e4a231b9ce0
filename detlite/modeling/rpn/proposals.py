"""The choice of proposals from the RPN's predictions."""

import torch
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from detlite.ops.nms import nms_first


def select_proposals(boxes, scores, image_size, *, min_size, pre_nms_top_n, nms_iou, post_nms_top_n):
    """Return an image's proposals (S, 4) and scores (S,), best first (section 3.3).

    Args:
        boxes: per level (R, 4), decoded.
        scores: per level (R,); only their order matters.
        image_size: (height, width) of the image itself, without padding.
        min_size: shortest side kept, in pixels.
        pre_nms_top_n: boxes of each level that enter NMS.
        nms_iou: boxes that overlap a better one of their level more than this are dropped.
        post_nms_top_n: proposals kept over all levels.
    """
    # On each level: clip, drop small boxes, keep the best. A stable sort keeps the anchors' order of equal scores.
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

    # NMS runs per level, but the best are chosen over all levels.
    if len(kept_boxes) == 1:
        keep = nms_first(boxes, scores, nms_iou, post_nms_top_n)
    else:
        keep = batched_nms(boxes, scores, levels, nms_iou)[:post_nms_top_n]
    return boxes[keep], scores[keep]
