"""Base of the RoI heads: their keys, and the choice of detections."""

import math
from typing import Literal

from torch import nn
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes


class RoIHeadsBase(nn.Module):
    """Base of the RoI heads.

    Args:
        box_loss_weight: factor on the box loss.
        normalize_by: divisor of the box loss: the number of sampled regions, or of positive ones.
        score_threshold: detections score more than this.
        nms_iou: detections that overlap a better one of their class more than this are dropped.
        detections_per_image: maximum number of detections; the best are kept.
        class_init_std: standard deviation of the class layer's initialization.
        box_init_std: standard deviation of the box layer's initialization.
    """

    def __init__(
        self,
        num_classes,
        *,
        box_loss_weight: float = 1.0,
        normalize_by: Literal["sampled", "positive"] = "sampled",
        score_threshold: float = 0.05,
        nms_iou: float = 0.3,
        detections_per_image: int = 100,
        class_init_std: float = 0.01,
        box_init_std: float = 0.001,
    ):
        super().__init__()
        if detections_per_image < 1 or not 0 <= nms_iou <= 1 or not 0 <= score_threshold <= 1:
            raise ValueError(
                "need detections_per_image >= 1, 0 <= nms_iou <= 1 and 0 <= score_threshold <= 1, "
                f"got {detections_per_image}, {nms_iou} and {score_threshold}"
            )
        weights = box_loss_weight, class_init_std, box_init_std
        if not all(0 <= weight < math.inf for weight in weights):
            raise ValueError(f"box_loss_weight, class_init_std and box_init_std are numbers from 0 on, got {weights}")
        self.num_classes = num_classes
        self.box_loss_weight = box_loss_weight
        self.normalize_by = normalize_by
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.detections_per_image = detections_per_image
        self.class_init_std = class_init_std
        self.box_init_std = box_init_std
        self.return_class_scores = False  # whether detections also have "class_scores" (S, K)

    def select(self, boxes, scores, image_size):
        """Return an image's detections from boxes (R, K, 4) and scores (R, K).

        Returns:
            {"boxes": (S, 4), "scores": (S,), "labels": (S,) int64 from 1}, best first, clipped to the image of (height,
            width); with ``return_class_scores`` also "class_scores": (S, K), all scores of the kept regions.
        """
        # Drop low scores, then boxes that vanish at the image's border.
        region, column = (scores > self.score_threshold).nonzero(as_tuple=True)
        boxes = clip_boxes_to_image(boxes[region, column], image_size)
        keep = remove_small_boxes(boxes, min_size=1e-2)
        boxes, region, column = boxes[keep], region[keep], column[keep]

        # NMS runs per class, but the best are chosen over all classes.
        keep = batched_nms(boxes, scores[region, column], column, self.nms_iou)[: self.detections_per_image]
        region, column = region[keep], column[keep]
        detections = {"boxes": boxes[keep], "scores": scores[region, column], "labels": column + 1}
        if self.return_class_scores:
            detections["class_scores"] = scores[region]
        return detections
