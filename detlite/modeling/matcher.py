"""Matchers: which object each box is trained on, and which boxes are positive.

Letters: N images, R boxes, M objects. All matchers return matches (R,) int64, the object of each box (0 where M = 0),
and labels (R,) int64: 1 positive, 0 negative, -1 ignored.
"""

import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou

from detlite.errors import require
from detlite.ops.batches import pad_boxes
from detlite.ops.cpu import has_cpu_kernel
from detlite.ops.iou import PAIRS_ON_GPU, TIE, iou_of_pairs, max_iou
from detlite.registry import MATCHERS
from detlite.signature import accepts, batch_method


def match_images(matcher, boxes, is_box, gt_boxes, boxes_per_level=None):
    """Match the boxes of each image to its objects.

    On a GPU, a part's ``match_batch`` matches all images at once if their IoUs fit into memory. On the CPU, matching
    image by image is faster.

    Args:
        matcher: a part of MATCHERS.
        boxes: (N, R, 4).
        is_box: (N, R) bool; the matcher ignores boxes where it is false.
        gt_boxes: for each image (M_i, 4).
        boxes_per_level: list of ints that sum to R; None is one level.

    Returns:
        matches and labels, both (N, R) int64. Where ``is_box`` is false, the match is 0 and the label is -1.
    """
    takes_levels = accepts(matcher, "boxes_per_level")
    takes_batches = batch_method(matcher, "match_batch") is not None and not takes_levels
    num_pairs = is_box.numel() * max(map(len, gt_boxes))
    if takes_batches and num_pairs <= PAIRS_ON_GPU and not has_cpu_kernel(boxes):
        objects, is_object = pad_boxes(gt_boxes)
        matches, labels = matcher.match_batch(boxes, objects, is_box, is_object)
        return matches.masked_fill(~is_box, 0), labels.masked_fill(~is_box, -1)

    matches = torch.zeros_like(is_box, dtype=torch.int64)
    labels = torch.full_like(matches, -1)
    for image, image_objects in enumerate(gt_boxes):
        # Select the boxes. If there is no other row, a slice saves the copy.
        rows = slice(None) if is_box[image].all() else is_box[image].nonzero().flatten()
        arguments = [boxes[image, rows], image_objects]
        if takes_levels:
            levels = is_box[image].split(boxes_per_level or [is_box.shape[1]])
            arguments.append([int(level.sum()) for level in levels])
        matches[image, rows], labels[image, rows] = matcher(*arguments)
    return matches, labels


def exclude_ignored(labels, boxes, targets):
    """Change the label of negative boxes to -1 if half of their area or more is in one ignored region.

    Labels [(R_i,)], boxes [(R_i, 4)] and targets are lists over the images. A target may have "ignored" (I, 4).
    """
    for image_labels, image_boxes, target in zip(labels, boxes, targets, strict=True):
        for region in target.get("ignored", ()):
            corners = image_boxes.unflatten(1, (2, 2)).clamp(region[:2], region[2:])  # [R, 2, 2], of the shared part
            shared = (corners[:, 1] - corners[:, 0]).prod(dim=1)
            image_labels[(shared >= 0.5 * box_area(image_boxes)) & (image_labels == 0)] = -1


@MATCHERS.register()
class MaxIoUMatcher:
    """Match each box to the object it overlaps most (Ren et al. 2015, section 3.1.2).

    Args:
        foreground_iou: boxes that overlap their object at least this much are positive.
        background_iou: boxes that overlap every object less than this are negative; boxes in between are ignored.
        background_iou_low: negatives must overlap some object at least this much, otherwise they are ignored.
        keep_best: whether the boxes that overlap an object most are positive at any IoU above 0.
    """

    def __init__(
        self,
        *,
        foreground_iou: float = 0.7,
        background_iou: float = 0.3,
        background_iou_low: float = 0.0,
        keep_best: bool = True,
    ):
        fits = 0 <= background_iou_low <= background_iou <= foreground_iou <= 1
        rule = "need 0 <= background_iou_low <= background_iou <= foreground_iou <= 1"
        require(fits, rule, background_iou_low, background_iou, foreground_iou)
        self.foreground_iou = foreground_iou
        self.background_iou = background_iou
        self.background_iou_low = background_iou_low
        self.keep_best = keep_best

    def __call__(self, boxes: Tensor, gt_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Match boxes (R, 4) to objects (M, 4)."""
        iou, matches, best_boxes = max_iou(boxes, gt_boxes, find_best=self.keep_best)
        labels = torch.full_like(matches, -1)
        labels[(iou >= self.background_iou_low) & (iou < self.background_iou)] = 0
        labels[iou >= self.foreground_iou] = 1

        # Rule (i) of the paper: each object's best box is positive. Its match is still the object it overlaps most.
        labels[best_boxes] = 1
        return matches, labels

    def match_batch(self, boxes: Tensor, gt_boxes: Tensor, is_box: Tensor, is_object: Tensor) -> tuple[Tensor, Tensor]:
        """Match the boxes (N, R, 4) of each image to its objects (N, M, 4), see ``MATCHERS``."""
        if not gt_boxes.shape[1] or not boxes.shape[1]:
            return no_matches(boxes)
        iou = iou_of_pairs(gt_boxes[:, :, None], boxes[:, None])  # [N, M, R]
        iou = iou.masked_fill(~(is_object[:, :, None] & is_box[:, None]), -1)

        # Without objects, the best IoU of a box is 0.
        best = iou.max(dim=1)
        best_iou = best.values.clamp(min=0)
        is_negative = (best_iou >= self.background_iou_low) & (best_iou < self.background_iou)
        is_positive = best_iou >= self.foreground_iou
        if self.keep_best:
            is_best = (iou >= iou.amax(dim=2, keepdim=True) - TIE) & (iou > 0)
            is_positive |= is_best.any(dim=1)
        labels = torch.full_like(best.indices, -1).masked_fill(is_negative, 0).masked_fill(is_positive, 1)
        return best.indices, labels


@MATCHERS.register()
class ATSSMatcher:
    """Adaptive training sample selection (Zhang et al. 2020, section 3.2).

    On each level, the k boxes with the closest centers are candidates of an object. Candidates whose IoU is at least
    the candidates' mean plus standard deviation, and whose center is in the object, are positive; all other boxes are
    negative. A box that is positive for several objects trains on the one it overlaps most.

    The standard deviation is the population's (divided by n), which is also defined for one candidate. mmdetection
    divides by n - 1, which gives 2 % more for 27 candidates.

    Args:
        k: candidates per object and level. The A anchors of a cell share a center, so use a multiple of A.
    """

    def __init__(self, *, k: int = 27):
        require(k >= 1, "k must be at least 1", k)
        self.k = k

    def __call__(self, boxes, gt_boxes, boxes_per_level=None):
        """Match boxes (R, 4) to objects (M, 4). None as ``boxes_per_level`` is one level."""
        iou = box_iou(gt_boxes, boxes)  # [M, R]
        if not iou.numel():
            return no_matches(boxes)

        # The candidates: the closest boxes of each level.
        distances = center_distances(gt_boxes, boxes)  # [M, R]
        is_candidate = torch.zeros_like(iou, dtype=torch.bool)
        start = 0
        for count in boxes_per_level or [len(boxes)]:
            nearest = distances[:, start : start + count].topk(min(self.k, count), largest=False).indices + start
            is_candidate.scatter_(1, nearest, True)
            start += count

        # Each object's threshold follows from the IoUs of its candidates.
        candidates = iou.masked_fill(~is_candidate, torch.nan)
        mean = candidates.nanmean(dim=1, keepdim=True)
        std = ((candidates - mean) ** 2).nanmean(dim=1, keepdim=True).sqrt()
        low, high = gt_boxes[:, None].split(2, dim=2)  # [M, 1, 2]
        is_inside = ((centers(boxes) > low) & (centers(boxes) < high)).all(dim=2)
        is_positive = is_candidate & (iou >= mean + std - TIE) & (iou > 0) & is_inside
        return best_positive(iou, is_positive)


@MATCHERS.register()
class TopKMatcher:
    """The k boxes with the centers closest to an object's center are positive.

    These are the candidates of Zhang et al. 2020. Among boxes with equal centers, boxes that overlap the object more
    come first.

    Args:
        k: positive boxes of each object.
        ignore_iou: other boxes that overlap an object at least this much are ignored; the rest are negative.
    """

    def __init__(self, *, k: int = 9, ignore_iou: float = 0.5):
        require(k >= 1 and 0 <= ignore_iou <= 1, "need k >= 1 and 0 <= ignore_iou <= 1", k, ignore_iou)
        self.k = k
        self.ignore_iou = ignore_iou

    def __call__(self, boxes, gt_boxes):
        """Match boxes (R, 4) to objects (M, 4)."""
        iou = box_iou(gt_boxes, boxes)  # [M, R]
        if not iou.numel():
            return no_matches(boxes)

        # Distances are in pixels. Subtracting at most 0.01 reorders only boxes with practically equal centers.
        distances = center_distances(gt_boxes, boxes)
        nearest = (distances - 1e-2 * iou).topk(min(self.k, len(boxes)), largest=False).indices
        is_positive = torch.zeros_like(iou, dtype=torch.bool).scatter_(1, nearest, True) & (iou > 0)

        matches, labels = best_positive(iou, is_positive)
        labels[(labels == 0) & (iou.max(dim=0).values >= self.ignore_iou)] = -1
        return matches, labels


def no_matches(boxes):
    """Return the matches and labels if there are no objects or no boxes: all boxes are negative."""
    zeros = torch.zeros(boxes.shape[:-1], dtype=torch.int64, device=boxes.device)
    return zeros, zeros.clone()


def best_positive(iou, is_positive):
    """Match each positive box to the object it overlaps most; ``iou`` and ``is_positive`` are (M, R)."""
    best = iou.masked_fill(~is_positive, -1).max(dim=0)
    return best.indices, (best.values >= 0).long()


def centers(boxes):
    """Return the centers (x, y) of boxes: (..., 4) -> (..., 2)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def center_distances(boxes, others):
    """Return the distances between the centers of boxes (M, 4) and others (R, 4): (M, R)."""
    # A matrix product would be faster, but on a GPU it may round to 10 bits (TF32).
    return torch.cdist(centers(boxes), centers(others), compute_mode="donot_use_mm_for_euclid_dist")
