"""The choice of proposals from the RPN's predictions."""

import torch
from torchvision.ops import batched_nms

from detlite.ops.boxes import clip_to_limits, size_limits
from detlite.ops.nms import nms_first


def select_proposals(boxes, scores, image_sizes, *, min_size, pre_nms_top_n, nms_iou, post_nms_top_n):
    """Return each image's proposals (S, 4) and scores (S,), best first (section 3.3).

    Args:
        boxes: per level (N, R, 4), decoded.
        scores: per level (N, R); only their order matters. Boxes whose score is NaN are dropped.
        image_sizes: (height, width) of each image, without padding.
        min_size: shortest side kept, in pixels.
        pre_nms_top_n: boxes of each level that enter NMS.
        nms_iou: boxes that overlap a better one of their level more than this are dropped.
        post_nms_top_n: proposals kept over all levels.
    """
    # On each level: clip, move small boxes and NaN scores to the end, and keep the best. Without this, torch would sort
    # NaN first. Boxes of equal scores stay in order.
    limits = size_limits(image_sizes, boxes[0].device)
    best_boxes, best_scores, counts = [], [], []
    for level_boxes, level_scores in zip(boxes, scores, strict=True):
        level_boxes = clip_to_limits(level_boxes, limits)
        is_large = (level_boxes[..., 2:] - level_boxes[..., :2] >= min_size).all(dim=2)
        is_valid = is_large & (level_scores > -torch.inf)
        level_scores = level_scores.masked_fill(~is_valid, -torch.inf)
        level_scores, order = level_scores.sort(dim=1, descending=True, stable=True)
        order = order[:, :pre_nms_top_n, None].expand(-1, -1, 4)  # one index per coordinate
        best_boxes.append(level_boxes.gather(1, order))
        best_scores.append(level_scores[:, :pre_nms_top_n])
        counts.append(is_valid.sum(dim=1).clamp(max=pre_nms_top_n))

    # The numbers of valid boxes, as lists [N][level]. All images share this wait for the device.
    counts = torch.stack(counts, dim=1).tolist()

    # NMS runs image by image, because its results differ in number.
    proposals = []
    for image, level_counts in enumerate(counts):
        image_boxes = [level[image, :count] for level, count in zip(best_boxes, level_counts, strict=True)]
        image_scores = [level[image, :count] for level, count in zip(best_scores, level_counts, strict=True)]
        proposals.append(suppress(image_boxes, image_scores, nms_iou, post_nms_top_n))
    return proposals


def suppress(boxes, scores, nms_iou, post_nms_top_n):
    """Return the boxes (S, 4) and scores (S,) of an image that NMS keeps, from one tensor per level."""
    # Boxes of different levels do not suppress each other. The best of all levels are kept.
    if len(boxes) == 1:
        boxes, scores = boxes[0], scores[0]
        keep = nms_first(boxes, scores, nms_iou, post_nms_top_n)
    else:
        levels = torch.arange(len(boxes)).repeat_interleave(torch.tensor([len(level) for level in boxes]))
        boxes, scores = torch.cat(boxes), torch.cat(scores)
        keep = batched_nms(boxes, scores, levels.to(boxes.device, non_blocking=True), nms_iou)[:post_nms_top_n]
    return boxes[keep], scores[keep]
