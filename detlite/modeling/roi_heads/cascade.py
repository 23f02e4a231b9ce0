"""Cascade R-CNN: each head trains on boxes that the previous head refined.

Shape shorthand: N images, R proposals, S sampled ones, K classes.
"""

import math

import torch
from torch import nn
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from detlite import registry
from detlite.errors import require
from detlite.modeling.losses import object_scores
from detlite.modeling.roi_heads.base import LEAST_SIDE, RoIHeadsBase, add_features
from detlite.modeling.roi_heads.standard import StandardRoIHeads
from detlite.modeling.sampler import AllSampler
from detlite.parts import Slot, SlotList, build_slots
from detlite.signature import constructor_arguments


def _matcher(iou):
    return {"NAME": "MaxIoUMatcher", "FOREGROUND_IOU": iou, "BACKGROUND_IOU": iou, "KEEP_BEST": False}


def _box_coder(center, size):
    return {"NAME": "DeltaBoxCoder", "WEIGHTS": [center, center, size, size]}


@registry.ROI_HEADS.register()
class CascadeRoIHeads(RoIHeadsBase):
    """Stages with rising IoU thresholds (Cai and Vasconcelos 2018).

    Each stage has its own head, matcher and box coder; its boxes are class-agnostic. The first stage samples proposals;
    the later ones train on all of its refined boxes. In test the class scores are the mean over the stages, and the
    boxes are the last stage's.

    Args:
        append_gt: whether the objects join the proposals in training.
        stage_weights: factor on the losses of each stage, such as mmdetection's [1, 0.5, 0.25]. An empty list weighs
            all 1.
    """

    slots = {
        "POOLER": Slot(registry.ROI_POOLERS, "RoIAlign"),
        "BOX_HEAD": Slot(registry.BOX_HEADS, "FCBoxHead"),
        "MATCHERS": SlotList(registry.MATCHERS, [_matcher(0.5), _matcher(0.6), _matcher(0.7)]),
        "SAMPLER": Slot(registry.SAMPLERS, "BalancedSampler", num_samples=128, positive_fraction=0.25),
        "BOX_CODERS": SlotList(registry.BOX_CODERS, [_box_coder(10, 5), _box_coder(20, 10), _box_coder(30, 15)]),
        "BOX_LOSS": Slot(registry.BOX_LOSSES, "SmoothL1Loss", beta=1.0),
        "CLASS_LOSS": Slot(registry.CLASS_LOSSES, "CrossEntropyLoss"),
        "NMS": Slot(registry.NMS, "GreedyNMS", iou=0.5),
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
        nms,
        *,
        append_gt: bool = True,
        stage_weights: list[float] = (),
        **kwargs,
    ):
        super().__init__(num_classes, nms, **kwargs)
        rule = "MATCHERS and BOX_CODERS have an entry for each stage"
        require(len(matchers) == len(box_coders) > 0, rule, len(matchers), len(box_coders))
        self.stage_weights = list(stage_weights) or [1.0] * len(matchers)
        if len(self.stage_weights) != len(matchers) or not all(0 <= weight < math.inf for weight in self.stage_weights):
            raise ValueError(f"stage_weights: expected {len(matchers)} numbers, 0 or more, got {self.stage_weights}")
        self.stages = nn.ModuleList()
        for box_head, matcher, box_coder in zip(box_heads, matchers, box_coders, strict=True):
            parts = (pooler, box_head, matcher, sampler, box_coder, box_loss, class_loss, nms)
            keys = {"append_gt": append_gt, "box_outputs": "agnostic", **kwargs}
            self.stages.append(StandardRoIHeads(num_classes, *parts, **keys))

            # The next stage trains on all boxes that this one refines.
            sampler, append_gt = AllSampler(), False

    @classmethod
    def from_config(cls, node, channels, strides, num_classes):
        """Build the RoI heads that a config node describes."""
        pooler = registry.ROI_POOLERS.build(node.POOLER, strides)
        box_heads = [registry.BOX_HEADS.build(node.BOX_HEAD, channels[0], pooler.resolution) for _ in node.MATCHERS]
        others = build_slots(cls, node, "MATCHERS", "SAMPLER", "BOX_CODERS", "BOX_LOSS", "CLASS_LOSS", "NMS")
        return cls(num_classes, pooler, box_heads, *others, **constructor_arguments(cls, node))

    def forward(self, features, proposals, image_sizes, targets=None, generators=None):
        """Detect or, given targets, compute the losses of all stages.

        The losses are "loss_classifier_1", "loss_box_reg_1", ... See :meth:`StandardRoIHeads.forward`.
        """
        if targets is not None:
            return [], self.losses(features, proposals, image_sizes, targets, generators)
        counts = [len(boxes) for boxes in proposals]
        scores = 0
        for stage in self.stages:
            logits, deltas, vectors = stage.predict(features, proposals)
            scores = scores + object_scores(logits) / len(self.stages)  # [R, K]
            proposals = refine(stage.box_coder, proposals, deltas, image_sizes)

        # All classes of a region have the same box.
        class_boxes = torch.cat(proposals)[:, None].expand(-1, self.num_classes, 4)
        detections = self.select_batch(class_boxes, scores, counts, image_sizes)
        return add_features(detections, vectors, proposals), {}  # the last stage's

    def losses(self, features, proposals, image_sizes, targets, generators):
        """Return every stage's two losses, a dict of scalars."""
        losses = {}
        for number, stage in enumerate(self.stages, start=1):
            boxes, labels, gt_boxes = stage.sample(proposals, targets, generators, features)
            logits, deltas, _ = stage.predict(features, boxes)
            stage_losses = stage.losses_from_outputs(logits, deltas, boxes, labels, gt_boxes)
            for name, loss in stage_losses.items():
                losses[f"{name}_{number}"] = loss * self.stage_weights[number - 1]

            # Boxes that vanish at the image's border cannot be matched.
            refined = refine(stage.box_coder, boxes, deltas, image_sizes)
            proposals = [image_boxes[remove_small_boxes(image_boxes, LEAST_SIDE)] for image_boxes in refined]
        return losses


@torch.no_grad()
def refine(box_coder, boxes, deltas, image_sizes):
    """Move boxes [(R_i, 4)] by a stage's deltas (S, 1, 4) and clip them to their images, without gradient."""
    sizes = [image_boxes.shape[0] for image_boxes in boxes]  # len() would fix their number in an exported graph
    moved = box_coder.decode(torch.cat(boxes), deltas[:, 0])
    moved = moved.nan_to_num(nan=0.0).split(sizes)  # no pooler can read NaN; boxes without area are dropped later
    return [clip_boxes_to_image(image_boxes, size) for image_boxes, size in zip(moved, image_sizes, strict=True)]
