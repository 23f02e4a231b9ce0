"""The choice of proposals from the RPN's predictions."""

import torch

from detlite.ops.boxes import clip_to_limits, size_limits


def select_proposals(boxes, scores, image_sizes, *, nms, min_size, pre_nms_top_n, post_nms_top_n, min_score=0.0):
    """Return each image's proposals (S, 4) and scores (S,), best first (section 3.3).

    Args:
        boxes: per level (N, R, 4), decoded.
        scores: per level (N, R), logits. Boxes whose score is NaN are dropped.
        image_sizes: (height, width) of each image, without padding.
        nms: a part of NMS. If it needs probabilities, it gets them, and its scores are returned.
        min_size: shortest side kept, in pixels.
        pre_nms_top_n: boxes of each level that enter NMS.
        post_nms_top_n: proposals kept over all levels.
        min_score: lowest probability kept.
    """
    # On each level: clip, move small boxes and NaN scores to the end, and keep the best. Without this, torch would sort
    # NaN first. Boxes of equal scores stay in order.
    limits = size_limits(image_sizes, boxes[0].device)
    best_boxes, best_scores, counts = [], [], []
    for level_boxes, level_scores in zip(boxes, scores, strict=True):
        level_boxes = clip_to_limits(level_boxes, limits)
        is_large = (level_boxes[..., 2:] - level_boxes[..., :2] >= min_size).all(dim=2)
        is_valid = is_large & (level_scores > -torch.inf)
        if min_score > 0:
            is_valid &= level_scores.sigmoid() >= min_score
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
        proposals.append(suppress(nms, image_boxes, image_scores, post_nms_top_n))
    return proposals


def suppress(nms, boxes, scores, limit):
    """Return the boxes (S, 4) and scores (S,) of an image that NMS keeps, from one tensor per level."""
    # Each level is a group of NMS. A single one is an expanded number, see GreedyNMS.
    if len(boxes) == 1:
        boxes, scores = boxes[0], scores[0]
        levels = torch.zeros(1, dtype=torch.int64, device=boxes.device).expand(len(boxes))
    else:
        levels = torch.arange(len(boxes)).repeat_interleave(torch.tensor([len(level) for level in boxes]))
        boxes, scores = torch.cat(boxes), torch.cat(scores)
        levels = levels.to(boxes.device, non_blocking=True)
    if getattr(nms, "needs_probabilities", False):
        scores = scores.sigmoid()
    keep, scores = nms(boxes, scores, levels, limit)
    return boxes[keep], scores
