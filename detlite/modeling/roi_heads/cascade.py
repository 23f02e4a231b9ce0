"""Cascade R-CNN (Cai and Vasconcelos 2018): heads in a row, each trained on the boxes that the one before has refined.

Shape shorthand: N images, R proposals, S sampled ones, K classes.
"""

from typing import Literal

import torch
from torch import nn
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from detlite.modeling.losses import object_scores
from detlite.modeling.roi_heads.detections import check_limits, select_detections
from detlite.modeling.roi_heads.standard import StandardRoIHeads
from detlite.modeling.sampler import AllSampler
from detlite.parts import Slot, SlotList
from detlite.registry import (
    BOX_CODERS,
    BOX_HEADS,
    BOX_LOSSES,
    CLASS_LOSSES,
    MATCHERS,
    ROI_HEADS,
    ROI_POOLERS,
    SAMPLERS,
)
from detlite.signature import constructor_arguments


@ROI_HEADS.register()
class CascadeRoIHeads(nn.Module):
    """Stages with rising IoU thresholds; each has its own head, matcher and coder, and boxes for all classes in common.

    The first stage samples proposals; the later ones train on all of its refined boxes. In test the stages' class
    scores are averaged, and the last one's boxes are taken.

    Args:
        append_gt: whether the objects join the proposals in training.
        box_loss_weight: factor on every stage's box loss.
        normalize_by: what the box losses are divided by: the number of sampled regions, or of positive ones.
        score_threshold: detections must score more.
        nms_iou: detections that overlap a better one of their class more than this are dropped.
        detections_per_image: the best ones kept.
        class_init_std: standard deviation of the class layers' initialization.
        box_init_std: of the box layers'.
    """

    slots = {
        "POOLER": Slot(ROI_POOLERS, "RoIAlign"),
        "BOX_HEAD": Slot(BOX_HEADS, "FCBoxHead"),
        "MATCHERS": SlotList(
            MATCHERS,
            [
                {"NAME": "MaxIoUMatcher", "FOREGROUND_IOU": iou, "BACKGROUND_IOU": iou, "KEEP_BEST": False}
                for iou in (0.5, 0.6, 0.7)
            ],
        ),
        "SAMPLER": Slot(SAMPLERS, "BalancedSampler", num_samples=128, positive_fraction=0.25),
        "BOX_CODERS": SlotList(
            BOX_CODERS,
            [
                {"NAME": "DeltaBoxCoder", "WEIGHTS": weights}
                for weights in ([10, 10, 5, 5], [20, 20, 10, 10], [30, 30, 15, 15])
            ],
        ),
        "BOX_LOSS": Slot(BOX_LOSSES, "SmoothL1Loss", beta=1.0),
        "CLASS_LOSS": Slot(CLASS_LOSSES, "CrossEntropyLoss"),
    }

    def __init__(
        self,
        num_classes,
        pooler,
        box_heads,
        matchers,
        sampler,
        box_coders,
        box_loss,
        class_loss,
        *,
        append_gt: bool = True,
        box_loss_weight: float = 1.0,
        normalize_by: Literal["sampled", "positive"] = "sampled",
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        detections_per_image: int = 100,
        class_init_std: float = 0.01,
        box_init_std: float = 0.001,
    ):
        super().__init__()
        if not len(matchers) == len(box_coders) > 0:
            raise ValueError(
                f"MATCHERS and BOX_CODERS have an entry for each stage, got {len(matchers)} and {len(box_coders)}"
            )
        check_limits(score_threshold, nms_iou, detections_per_image)
        self.num_classes = num_classes
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.detections_per_image = detections_per_image
        self.return_class_scores = False  # whether detections also have "class_scores" (S, K)
        self.stages = nn.ModuleList(
            StandardRoIHeads(
                num_classes,
                pooler,
                box_head,
                matcher,
                AllSampler() if number else sampler,
                box_coder,
                box_loss,
                class_loss,
                append_gt=append_gt and number == 0,
                box_outputs="agnostic",
                box_loss_weight=box_loss_weight,
                normalize_by=normalize_by,
                class_init_std=class_init_std,
                box_init_std=box_init_std,
            )
            for number, (box_head, matcher, box_coder) in enumerate(zip(box_heads, matchers, box_coders, strict=True))
        )

    @classmethod
    def from_config(cls, node, channels, strides, num_classes):
        """The RoI heads that a config node describes; see the registry ``ROI_HEADS``."""
        pooler = ROI_POOLERS.build(node.POOLER, strides)
        return cls(
            num_classes,
            pooler,
            [BOX_HEADS.build(node.BOX_HEAD, channels[0], pooler.resolution) for _ in node.MATCHERS],
            [MATCHERS.build(matcher) for matcher in node.MATCHERS],
            SAMPLERS.build(node.SAMPLER),
            [BOX_CODERS.build(box_coder) for box_coder in node.BOX_CODERS],
            BOX_LOSSES.build(node.BOX_LOSS),
            CLASS_LOSSES.build(node.CLASS_LOSS),
            **constructor_arguments(cls, node),
        )

    def forward(self, features, proposals, image_sizes, targets=None, generators=None):
        """Detect or, given targets, compute the losses; arguments and results as StandardRoIHeads'.

        The losses are each stage's, "loss_classifier_1", "loss_box_reg_1", ... .
        """
        if targets is not None:
            return [], self.losses(features, proposals, image_sizes, targets, generators)
        counts = [len(boxes) for boxes in proposals]
        scores = 0
        for stage in self.stages:
            logits, deltas = stage.predict(features, proposals)
            scores = scores + object_scores(logits) / len(self.stages)  # [R, K]
            proposals = refine(stage.box_coder, proposals, deltas, image_sizes)
        detections = [
            select_detections(
                boxes[:, None].expand(-1, self.num_classes, 4),
                image_scores,
                image_size,
                score_threshold=self.score_threshold,
                nms_iou=self.nms_iou,
                detections_per_image=self.detections_per_image,
                return_class_scores=self.return_class_scores,
            )
            for boxes, image_scores, image_size in zip(proposals, scores.split(counts), image_sizes, strict=True)
        ]
        return detections, {}

    def losses(self, features, proposals, image_sizes, targets, generators):
        """Every stage's two losses, a dict of scalars; arguments as for :meth:`forward`."""
        losses = {}
        for number, stage in enumerate(self.stages, start=1):
            boxes, labels, gt_boxes = stage.sample(proposals, targets, generators, features)
            logits, deltas = stage.predict(features, boxes)
            stage_losses = stage.losses_from_outputs(logits, deltas, boxes, labels, gt_boxes)
            losses |= {f"{name}_{number}": loss for name, loss in stage_losses.items()}
            refined = refine(stage.box_coder, boxes, deltas, image_sizes)
            proposals = [image_boxes[remove_small_boxes(image_boxes, min_size=1e-2)] for image_boxes in refined]
        return losses


@torch.no_grad()
def refine(box_coder, boxes, deltas, image_sizes):
    """The boxes of each image moved by a stage's predictions, clipped to the image, without gradient.

    Args:
        box_coder: the stage's.
        boxes: for each image (R_i, 4).
        deltas: (S, 1, 4), the images' one after the other.
        image_sizes: (height, width) of each image.

    Returns:
        list of (R_i, 4).
    """
    sizes = [image_boxes.shape[0] for image_boxes in boxes]  # len() would fix their number in an exported graph
    moved = box_coder.decode(torch.cat(boxes), deltas[:, 0]).split(sizes)
    return [clip_boxes_to_image(image_boxes, size) for image_boxes, size in zip(moved, image_sizes, strict=True)]
