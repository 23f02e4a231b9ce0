"""The region proposal network (Ren et al. 2015, section 3.1).

Shape shorthand: N images, R anchors of an image over all levels, M objects, C columns of logits (1 for sigmoid, 2 for
softmax), S proposals.
"""

import math
from typing import Literal

import torch
from torch import nn

from detlite.errors import UserError, require
from detlite.modeling.coverage import covered_objects, proposal_recall
from detlite.modeling.losses import check_class_weights, objectness, reduce_losses, regression_losses
from detlite.modeling.matcher import exclude_ignored, match_images
from detlite.modeling.rpn.proposals import select_proposals
from detlite.modeling.sampler import sample_images
from detlite.ops.batches import call_on_images, starts_of
from detlite.ops.boxes import boxes_inside
from detlite.parts import Slot, build_slots
from detlite.registry import ANCHOR_GENERATORS, BOX_CODERS, BOX_LOSSES, CLASS_LOSSES, MATCHERS, NMS, RPN_HEADS, SAMPLERS
from detlite.signature import constructor_arguments


class RPN(nn.Module):
    """The region proposal network: proposals, and its two losses.

    Args:
        inside_only: whether anchors that leave the image are ignored in training.
        box_loss_weight: factor on the box loss.
        normalize_by: divisor of the box loss: the number of sampled anchors, or of positive ones.
        min_size: shortest side of a proposal, in pixels of the network's input.
        score_threshold: proposals score at least this, from 0 to 1.
        pre_nms_top_n_train: best predictions of each level that enter NMS in training.
        post_nms_top_n_train: proposals per image in training.
        pre_nms_top_n_test: best predictions of each level that enter NMS in test.
        post_nms_top_n_test: proposals per image in test.
    """

    slots = {
        "ANCHOR_GENERATOR": Slot(ANCHOR_GENERATORS, "GridAnchorGenerator"),
        "HEAD": Slot(RPN_HEADS, "RPNHead"),
        "MATCHER": Slot(MATCHERS, "MaxIoUMatcher", foreground_iou=0.7, background_iou=0.3, keep_best=True),
        "SAMPLER": Slot(SAMPLERS, "BalancedSampler", num_samples=256, positive_fraction=0.5),
        "BOX_CODER": Slot(BOX_CODERS, "DeltaBoxCoder"),
        "BOX_LOSS": Slot(BOX_LOSSES, "SmoothL1Loss", beta=1 / 9),
        "CLASS_LOSS": Slot(CLASS_LOSSES, "CrossEntropyLoss"),
        "NMS": Slot(NMS, "GreedyNMS", iou=0.7),
    }

    def __init__(
        self,
        anchor_generator,
        head,
        matcher,
        sampler,
        box_coder,
        box_loss,
        class_loss,
        nms,
        *,
        inside_only: bool = True,
        box_loss_weight: float = 1.0,
        normalize_by: Literal["sampled", "positive"] = "sampled",
        min_size: float = 16.0,
        score_threshold: float = 0.0,
        pre_nms_top_n_train: int = 12000,
        post_nms_top_n_train: int = 2000,
        pre_nms_top_n_test: int = 6000,
        post_nms_top_n_test: int = 300,
    ):
        super().__init__()
        top_ns = (pre_nms_top_n_train, post_nms_top_n_train, pre_nms_top_n_test, post_nms_top_n_test)
        fits = min(top_ns) >= 1 and 0 <= box_loss_weight < math.inf and min_size >= 0 and 0 <= score_threshold <= 1
        rule = "need *_top_n_* >= 1, box_loss_weight >= 0, min_size >= 0 and 0 <= score_threshold <= 1"
        require(fits, rule, top_ns, box_loss_weight, min_size, score_threshold)

        check_class_weights(class_loss, 1)  # objects are one class

        # The parts, then the keys of the config node.
        self.anchor_generator = anchor_generator
        self.head = head
        self.matcher = matcher
        self.sampler = sampler
        self.box_coder = box_coder
        self.box_loss = box_loss
        self.class_loss = class_loss
        self.nms = nms
        self.inside_only = inside_only
        self.box_loss_weight = box_loss_weight
        self.normalize_by = normalize_by
        self.min_size = min_size
        self.score_threshold = score_threshold
        self.pre_nms_top_n_train = pre_nms_top_n_train
        self.post_nms_top_n_train = post_nms_top_n_train
        self.pre_nms_top_n_test = pre_nms_top_n_test
        self.post_nms_top_n_test = post_nms_top_n_test
        self.statistics = {}  # of the last pass with targets, see META_ARCHITECTURES

    @classmethod
    def from_config(cls, node, channels, strides):
        """Build the RPN that a config node describes, from the channels and strides of the feature levels."""
        anchor_generator = ANCHOR_GENERATORS.build(node.ANCHOR_GENERATOR, strides)
        num_anchors = list(anchor_generator.num_anchors)
        if len(num_anchors) != len(strides):
            found = f"has anchors for {len(num_anchors)} levels, the backbone has {len(strides)}"
            raise UserError(f"{node.path}.ANCHOR_GENERATOR: {node.ANCHOR_GENERATOR.NAME} {found}")

        # One head serves all levels, so they need equal channels and equal numbers of anchors.
        for numbers, name, remedy in (
            (channels, "channels", "the backbone FPN gives all levels the same"),
            (num_anchors, "anchors per cell", f"give {node.path}.ANCHOR_GENERATOR the same number for each level"),
        ):
            if len(set(numbers)) != 1:
                problem = f"one head serves all feature levels, but they have {numbers} {name}"
                raise UserError(f"{node.path}.HEAD: {problem}; {remedy}")

        head = RPN_HEADS.build(node.HEAD, channels[0], anchor_generator.num_anchors[0])
        others = build_slots(cls, node, "MATCHER", "SAMPLER", "BOX_CODER", "BOX_LOSS", "CLASS_LOSS", "NMS")
        try:
            return cls(anchor_generator, head, *others, **constructor_arguments(cls, node))
        except ValueError as error:  # a registry would add the node's path, but the RPN has none
            raise UserError(f"{node.path}: {error}") from error

    def pre_nms_top_n(self, training):
        """Return how many predictions of each level enter NMS, in training or in test."""
        return self.pre_nms_top_n_train if training else self.pre_nms_top_n_test

    def post_nms_top_n(self, training):
        """Return how many proposals per image NMS keeps, in training or in test."""
        return self.post_nms_top_n_train if training else self.post_nms_top_n_test

    def forward(self, features, image_sizes, targets=None, generators=None):
        """Propose regions and, given targets, compute the losses.

        Args:
            features: list over levels of (N, C, h, w).
            image_sizes: (height, width) of each image, without padding.
            targets: None, or for each image a dict with "boxes" (M, 4), and maybe "ignored" (I, 4).
            generators: for each image a torch.Generator for sampling, or None.

        Returns:
            proposals: for each image (S, 4), best first, without gradient.
            losses: {name: scalar}, empty without targets.
        """
        anchors, logits, deltas = self.predict(features)
        proposals = [boxes for boxes, _ in self.propose(anchors, logits, deltas, image_sizes)]
        if targets is None:
            return proposals, {}
        self.statistics = {"proposal_recall": proposal_recall(proposals, targets)}

        # The losses join the levels. Only a matcher may treat them differently.
        anchors_per_level = list(map(len, anchors))
        outputs = torch.cat(anchors), torch.cat(logits, dim=1), torch.cat(deltas, dim=1)
        return proposals, self.losses(*outputs, image_sizes, targets, generators, anchors_per_level)

    def predict(self, features):
        """Return anchors (h * w * A, 4), logits (N, h * w * A, C) and deltas (N, h * w * A, 4), lists over levels."""
        logits, deltas = self.head(features)
        feature_sizes = [level.shape[-2:] for level in features]
        return self.anchor_generator(feature_sizes, features[0].device), logits, deltas

    @torch.no_grad()
    def propose(self, anchors, logits, deltas, image_sizes):
        """Choose each image's proposals (S, 4), best first, with objectness scores (S,) in 0 ... 1.

        ``anchors``, ``logits`` and ``deltas`` are the results of :meth:`predict`. An image's size is (height, width).
        """
        # Decode a level's boxes of all images together, in float32 also under autocast.
        boxes, scores = [], []
        num_images = len(image_sizes)
        for level_anchors, level_logits, level_deltas in zip(anchors, logits, deltas, strict=True):
            counts = [len(level_anchors)] * num_images
            all_anchors, all_deltas = level_anchors.repeat(num_images, 1), level_deltas.flatten(0, 1).float()
            level_boxes = call_on_images(self.box_coder.decode, counts, all_anchors, all_deltas)
            boxes.append(level_boxes.view(num_images, -1, 4))
            scores.append(objectness(level_logits.flatten(0, 1).float()).view(num_images, -1))

        proposals = select_proposals(
            boxes,
            scores,
            image_sizes,
            nms=self.nms,
            min_size=self.min_size,
            min_score=self.score_threshold,
            pre_nms_top_n=self.pre_nms_top_n(self.training),
            post_nms_top_n=self.post_nms_top_n(self.training),
        )
        if getattr(self.nms, "needs_probabilities", False):  # then it returned probabilities
            return proposals
        return [(image_boxes, image_logits.sigmoid()) for image_boxes, image_logits in proposals]

    def losses(self, anchors, logits, deltas, image_sizes, targets, generators, anchors_per_level=None):
        """Return {"loss_objectness", "loss_rpn_box_reg"}, scalars, over the sampled anchors of all images.

        Anchors (R, 4), logits (N, R, C) and deltas (N, R, 4) are of all levels. ``anchors_per_level`` are the numbers
        of each level; None is one level. :meth:`forward` explains the other arguments.
        """
        gt_boxes = [target["boxes"] for target in targets]
        matches, labels = self.match_batch(anchors, gt_boxes, image_sizes, anchors_per_level)  # [N, R]
        exclude_ignored(labels, [anchors] * len(targets), targets)

        def anchor_losses(image):
            # Ignored anchors (-1) are never sampled. They get class 0, because a class loss does not know -1.
            return self.class_loss(logits[image].detach().float(), labels[image].clamp(min=0))

        samples = sample_images(self.sampler, labels.unbind(), generators, anchor_losses)

        # Join the anchors of all images (N * R), and their objects. A match becomes an index into all objects.
        all_anchors, all_labels = anchors.repeat(len(targets), 1), labels.flatten()
        all_logits, all_deltas = logits.flatten(0, 1), deltas.flatten(0, 1)
        all_objects = torch.cat(gt_boxes)
        object_starts = torch.tensor(starts_of(gt_boxes)).to(anchors.device, non_blocking=True)
        objects = (matches + object_starts[:, None]).flatten()

        # Sampled anchors have a class loss; positive ones also have a box loss.
        sampled, positive = samples.indices, samples.positive
        sampled_logits, sampled_labels = all_logits[sampled].float(), all_labels[sampled]
        class_losses = call_on_images(self.class_loss, samples.counts, sampled_logits, sampled_labels)
        rows = all_anchors[positive], all_deltas[positive].float(), all_objects[objects[positive]]
        box_losses = regression_losses(self.box_loss, self.box_coder, *rows, samples.positive_counts)

        # For the log.
        num_covered = covered_objects(all_anchors, all_objects, objects, all_labels)
        self.statistics |= {
            "objects_matched": (num_covered, len(all_objects)),
            "rpn_foreground": (len(positive), len(targets)),
            "rpn_background": (len(sampled) - len(positive), len(targets)),
        }
        class_loss, box_loss = reduce_losses(self, class_losses, box_losses)
        return {"loss_objectness": class_loss, "loss_rpn_box_reg": box_loss}

    def match_batch(self, anchors, gt_boxes, image_sizes, anchors_per_level=None):
        """Match anchors (R, 4) to each image's objects [(M_i, 4)]: matches and labels, both (N, R) int64.

        With ``inside_only``, the matcher never sees anchors that leave their image of (height, width).
        """
        if self.inside_only:
            is_inside = boxes_inside(anchors, image_sizes)
        else:
            is_inside = torch.ones(len(gt_boxes), len(anchors), dtype=torch.bool, device=anchors.device)
        all_anchors = anchors.expand(len(gt_boxes), -1, 4)
        return match_images(self.matcher, all_anchors, is_inside, gt_boxes, anchors_per_level)

    def match(self, anchors, gt_boxes, image_size, anchors_per_level=None):
        """Match anchors to the objects (M, 4) of one image, see :meth:`match_batch`: matches and labels, both (R,)."""
        matches, labels = self.match_batch(anchors, [gt_boxes], [image_size], anchors_per_level)
        return matches[0], labels[0]
