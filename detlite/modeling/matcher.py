"""Which boxes stand for which objects."""

import torch
from torchvision.ops import box_iou

from detlite.registry import MATCHERS
from detlite.schema import takes

TIE = 1e-6  # IoUs this close are equal: float32 arithmetic does not give two equal overlaps the same bits


def match(matcher, boxes, gt_boxes, boxes_per_level):
    """Call a matcher, with the third argument if it takes one.

    Args:
        matcher: a part of MATCHERS.
        boxes: (R, 4).
        gt_boxes: (M, 4).
        boxes_per_level: how many of the boxes belong to each feature level.

    Returns:
        matches (R,), labels (R,).
    """
    if takes(matcher, "boxes_per_level"):
        return matcher(boxes, gt_boxes, boxes_per_level)
    return matcher(boxes, gt_boxes)


@MATCHERS.register()
class MaxIoUMatcher:
    """Match each box to the object it overlaps most (Ren et al. 2015, section 3.1.2).

    Args:
        foreground_iou: boxes that overlap their object at least this much are positive.
        background_iou: boxes that overlap every object less than this are negative; those between are ignored.
        background_iou_low: negatives must overlap some object at least this much, otherwise they are ignored.
        keep_best: whether the boxes that overlap an object most are positive whatever their IoU, if above 0.
    """

    def __init__(
        self,
        *,
        foreground_iou: float = 0.7,
        background_iou: float = 0.3,
        background_iou_low: float = 0.0,
        keep_best: bool = True,
    ):
        if not 0 <= background_iou_low <= background_iou <= foreground_iou <= 1:
            raise ValueError(
                "need 0 <= background_iou_low <= background_iou <= foreground_iou <= 1, "
                f"got {background_iou_low}, {background_iou} and {foreground_iou}"
            )
        self.foreground_iou = foreground_iou
        self.background_iou = background_iou
        self.background_iou_low = background_iou_low
        self.keep_best = keep_best

    def __call__(self, boxes, gt_boxes):
        """Match boxes to objects.

        Args:
            boxes: (R, 4).
            gt_boxes: (M, 4).

        Returns:
            matches (R,) int64, the object of each box (0 where M = 0); labels (R,) int64, 1 positive, 0 negative,
            -1 ignored.
        """
        return self.match_iou(box_iou(gt_boxes, boxes))

    def match_iou(self, iou):
        """As a call, from the IoU of each object with each box, (M, R)."""
        if len(iou) == 0:
            best, matches = iou.new_zeros(iou.shape[1]), torch.zeros(iou.shape[1], dtype=torch.int64, device=iou.device)
        else:
            best, matches = iou.max(dim=0)
        labels = torch.full_like(matches, -1)
        labels[(best >= self.background_iou_low) & (best < self.background_iou)] = 0
        labels[best >= self.foreground_iou] = 1
        if self.keep_best and iou.numel():
            best_of_object = iou.max(dim=1, keepdim=True).values  # [M, 1]
            # An object that no box overlaps has no best box: without "> 0" every box would tie for it.
            labels[((iou >= best_of_object - TIE) & (iou > 0)).any(dim=0)] = 1
        return matches, labels
