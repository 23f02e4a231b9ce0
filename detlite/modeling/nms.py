"""Non-maximum suppression: which of several overlapping boxes are kept, and with which scores.

Letters: R boxes, S kept ones.
"""

import math

import torch
from torchvision.ops import batched_nms, box_iou

from detlite.errors import require
from detlite.ops.cpu import has_cpu_kernel
from detlite.ops.nms import nms_first
from detlite.registry import NMS


@NMS.register()
class GreedyNMS:
    """Drop each box that overlaps a better, kept box of its group.

    Args:
        iou: a box is dropped if its IoU with a better box is higher than this.
        class_agnostic: whether boxes of all groups suppress each other. Groups are classes, and levels in the RPN.
    """

    needs_probabilities = False

    def __init__(self, *, iou: float = 0.5, class_agnostic: bool = False):
        require(0 <= iou <= 1, "iou must be in 0 ... 1", iou)
        self.iou = iou
        self.class_agnostic = class_agnostic

    def __call__(self, boxes, scores, groups, limit):
        """Return the indices (S,) of the kept boxes, best first, and their scores (S,)."""
        # An expanded number is one group. It is recognized by its stride, without a wait for the device.
        if self.class_agnostic or groups.stride(0) == 0:
            descending, order = scores.sort(descending=True, stable=True)
            keep = order[nms_first(boxes[order], descending, self.iou, limit)]
        else:
            keep = batched_nms(boxes, scores, groups, self.iou)[:limit]
        return keep, scores[keep]


class _SoftNMS:
    """Soft-NMS: a kept box lowers the scores of its group's other boxes (Bodla et al. 2017, figure 2).

    Subclasses have ``decay``, the factor on a score for each IoU with the kept box.
    """

    needs_probabilities = True

    def __init__(self, min_score):
        require(0 <= min_score <= 1, "min_score must be in 0 ... 1", min_score)
        self.min_score = min_score

    def __call__(self, boxes, scores, groups, limit):
        """Return the indices (S,) of the kept boxes, best first, and their lowered scores (S,)."""
        # Boxes are kept in descending order of their final scores, so the first ``limit`` ones are the best.
        remaining = scores.clone()
        kept, kept_scores = [groups.new_zeros(0)], [scores.new_zeros(0)]
        for _ in range(min(limit, len(scores))):
            score, best = remaining.max(dim=0, keepdim=True)  # (1,); an index of one number would wait for a GPU
            if has_cpu_kernel(scores) and score < self.min_score:
                break
            kept.append(best)
            kept_scores.append(score)

            # Two boxes without area have the IoU 0 / 0.
            factors = self.decay(box_iou(boxes[best], boxes)[0].nan_to_num(nan=0.0))
            remaining *= torch.where(groups == groups[best], factors, 1.0)
            remaining.index_fill_(0, torch.cat(kept), -1.0)  # all again: a factor of 0 makes -1 a score of 0
        kept, kept_scores = torch.cat(kept), torch.cat(kept_scores)
        is_high = kept_scores >= self.min_score
        return kept[is_high], kept_scores[is_high]


@NMS.register()
class LinearSoftNMS(_SoftNMS):
    """Multiply the score of a box by 1 - IoU if it overlaps a better box (Bodla et al. 2017, section 3).

    Args:
        iou: scores are lowered from this IoU on.
        min_score: boxes whose score falls below this are dropped.
    """

    def __init__(self, *, iou: float = 0.3, min_score: float = 0.001):
        super().__init__(min_score)
        require(0 <= iou <= 1, "iou must be in 0 ... 1", iou)
        self.iou = iou

    def decay(self, ious):
        """Return the factor on the score for each IoU (R,)."""
        return torch.where(ious >= self.iou, 1 - ious, 1.0)


@NMS.register()
class GaussianSoftNMS(_SoftNMS):
    """Multiply the score of a box by exp(-IoU * IoU / sigma) for each better box (Bodla et al. 2017, section 3).

    Args:
        sigma: the smaller, the more an overlap lowers the score.
        min_score: boxes whose score falls below this are dropped.
    """

    def __init__(self, *, sigma: float = 0.5, min_score: float = 0.001):
        super().__init__(min_score)
        require(0 < sigma < math.inf, "sigma must be a finite number above 0", sigma)
        self.sigma = sigma

    def decay(self, ious):
        """Return the factor on the score for each IoU (R,)."""
        return torch.exp(-ious * ious / self.sigma)
