"""Base of the RoI heads: their keys, and the choice of detections."""

import math
from typing import Any, Literal

import torch
from torch import nn

from detlite.errors import require
from detlite.ops.boxes import clip_to_limits, size_limits

LEAST_SIDE = 1e-2  # pixels, of a detection or a refined proposal


class RoIHeadsBase(nn.Module):
    """Base of the RoI heads.

    Args:
        nms: a part of NMS, which gets the detections' classes as groups.
        box_loss_weight: factor on the box loss.
        normalize_by: divisor of the box loss: the number of sampled regions, or of positive ones.
        score_threshold: detections score more than this.
        detections_per_image: maximum number of detections; the best are kept.
        class_init_std: standard deviation of the class layer's initialization.
        box_init_std: standard deviation of the box layer's initialization.
    """

    def __init__(
        self,
        num_classes: int,
        nms: Any,
        *,
        box_loss_weight: float = 1.0,
        normalize_by: Literal["sampled", "positive"] = "sampled",
        score_threshold: float = 0.05,
        detections_per_image: int = 100,
        class_init_std: float = 0.01,
        box_init_std: float = 0.001,
    ):
        super().__init__()
        rule = "need detections_per_image >= 1 and 0 <= score_threshold <= 1"
        require(detections_per_image >= 1 and 0 <= score_threshold <= 1, rule, detections_per_image, score_threshold)
        weights = box_loss_weight, class_init_std, box_init_std
        fits = all(0 <= weight < math.inf for weight in weights)
        require(fits, "box_loss_weight, class_init_std and box_init_std must be 0 or more", weights)
        self.num_classes = num_classes
        self.box_loss_weight = box_loss_weight
        self.normalize_by = normalize_by
        self.score_threshold = score_threshold
        self.nms = nms
        self.detections_per_image = detections_per_image
        self.class_init_std = class_init_std
        self.box_init_std = box_init_std

    def select(self, boxes, scores, image_size):
        """Return the detections of one image from boxes (R, K, 4) and scores (R, K), see :meth:`select_batch`."""
        return self.select_batch(boxes, scores, [len(boxes)], [image_size])[0]

    def select_batch(self, boxes, scores, counts, image_sizes):
        """Return each image's detections from the boxes and scores of all images' regions.

        Args:
            boxes: (R, K, 4), for the regions of the first image, then of the second, and so on.
            scores: (R, K), in the same order.
            counts: number of regions of each image.
            image_sizes: (height, width) of each image.

        Returns:
            for each image {"boxes": (S, 4), "scores": (S,), "labels": (S,) int64 from 1, "class_scores": (S, K), all
            scores of the kept regions, "regions": (S,), their indices in the image}, best first, clipped to the image.
        """
        images = torch.arange(len(counts))
        image_of_region = images.repeat_interleave(torch.tensor(counts)).to(boxes.device, non_blocking=True)

        # Drop low scores, then boxes that vanish at the image's border. Column k has the scores of class k + 1.
        region, column = (scores > self.score_threshold).nonzero(as_tuple=True)
        limits = size_limits(image_sizes, boxes.device)[image_of_region[region]]  # [S, 1, 2]
        boxes = clip_to_limits(boxes[region, column][:, None], limits)[:, 0]
        keep = (boxes[:, 2:] - boxes[:, :2] >= LEAST_SIDE).all(dim=1).nonzero().flatten()
        boxes, region, column = boxes[keep], region[keep], column[keep]
        kept_scores = scores[region, column]
        in_image = torch.cat(list(map(torch.arange, counts))).to(boxes.device, non_blocking=True)  # index in its image

        # NMS runs image by image, because its results differ in number.
        is_of_image = image_of_region[region] == images[:, None].to(boxes.device, non_blocking=True)  # [N, S]
        kept_counts = is_of_image.sum(dim=1).tolist()
        parts = [tensor.split(kept_counts) for tensor in (boxes, kept_scores, column, region)]
        detections = []
        for image_boxes, image_scores, image_column, image_region in zip(*parts, strict=True):
            keep, found_scores = self.nms(image_boxes, image_scores, image_column, self.detections_per_image)
            found = {"boxes": image_boxes[keep], "scores": found_scores, "labels": image_column[keep] + 1}
            kept = image_region[keep]
            detections.append({**found, "class_scores": scores[kept], "regions": in_image[kept]})
        return detections


def add_features(detections, vectors, proposals):
    """Replace the "regions" of detections by "features", the regions' vectors; return the detections.

    Vectors (R, D) are the box head's output for the proposals [(R_i, 4)] of all images.
    """
    for found, image_vectors in zip(detections, vectors.split(list(map(len, proposals))), strict=True):
        if "regions" in found:  # a subclass may select detections in another way
            found["features"] = image_vectors[found.pop("regions")]
    return detections
