"""The second stage of Faster R-CNN (Girshick 2015, Ren et al. 2015).

Shape shorthand: N images, R proposals, S sampled ones, P positive ones, M objects, K classes, B boxes predicted per
region.
"""

import functools
from typing import Literal

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from detlite.modeling.losses import object_scores, reduce_losses, regression_losses
from detlite.modeling.matcher import match, match_batch, takes_batches
from detlite.modeling.roi_heads.base import RoIHeadsBase
from detlite.modeling.sampler import sample_images
from detlite.ops.batches import call_on_images, join_indices, starts_of
from detlite.parts import Slot
from detlite.registry import BOX_CODERS, BOX_HEADS, BOX_LOSSES, CLASS_LOSSES, MATCHERS, ROI_HEADS, ROI_POOLERS, SAMPLERS
from detlite.signature import constructor_arguments


class BoxPredictor(nn.Module):
    """Class logits and box deltas, one linear layer each.

    Args:
        in_features: D, of the box head.
        num_classes: K.
        num_boxes: B.
        class_init_std, box_init_std: standard deviations of the layers' normal initialization.
    """

    def __init__(self, in_features, num_classes, num_boxes, class_init_std, box_init_std):
        super().__init__()
        self.logits = nn.Linear(in_features, num_classes + 1)
        self.deltas = nn.Linear(in_features, num_boxes * 4)
        for layer, std in ((self.logits, class_init_std), (self.deltas, box_init_std)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, features):
        """Predict from features (S, D): logits (S, K + 1), deltas (S, B, 4)."""
        return self.logits(features), self.deltas(features).unflatten(1, (-1, 4))


@ROI_HEADS.register()
class StandardRoIHeads(RoIHeadsBase):
    """Pool each proposal, and predict its class and its exact box.

    Args:
        append_gt: whether the objects join the proposals in training.
        box_outputs: boxes predicted per region: one per class and, unused, one for the background, as in the paper; one
            per class; or one for all classes (agnostic).
    """

    slots = {
        "POOLER": Slot(ROI_POOLERS, "RoIPool"),
        "BOX_HEAD": Slot(BOX_HEADS, "FCBoxHead"),
        "MATCHER": Slot(MATCHERS, "MaxIoUMatcher", foreground_iou=0.5, background_iou=0.5, keep_best=False),
        "SAMPLER": Slot(SAMPLERS, "BalancedSampler", num_samples=128, positive_fraction=0.25),
        "BOX_CODER": Slot(BOX_CODERS, "DeltaBoxCoder", weights=[10.0, 10.0, 5.0, 5.0]),
        "BOX_LOSS": Slot(BOX_LOSSES, "SmoothL1Loss", beta=1.0),
        "CLASS_LOSS": Slot(CLASS_LOSSES, "CrossEntropyLoss"),
    }

    def __init__(
        self,
        num_classes,
        pooler,
        box_head,
        matcher,
        sampler,
        box_coder,
        box_loss,
        class_loss,
        *,
        append_gt: bool = True,
        box_outputs: Literal["classes and background", "classes", "agnostic"] = "classes and background",
        **kwargs,
    ):
        super().__init__(num_classes, **kwargs)
        num_boxes = {"classes and background": num_classes + 1, "classes": num_classes, "agnostic": 1}[box_outputs]
        self.pooler = pooler
        self.box_head = box_head
        stds = self.class_init_std, self.box_init_std
        self.predictor = BoxPredictor(box_head.out_features, num_classes, num_boxes, *stds)
        self.matcher = matcher
        self.sampler = sampler
        self.box_coder = box_coder
        self.box_loss = box_loss
        self.class_loss = class_loss
        self.append_gt = append_gt
        self.statistics = {}  # of the last pass with targets, see META_ARCHITECTURES

    @classmethod
    def from_config(cls, node, channels, strides, num_classes):
        """Build the RoI heads that a config node describes."""
        pooler = ROI_POOLERS.build(node.POOLER, strides)
        return cls(
            num_classes,
            pooler,
            BOX_HEADS.build(node.BOX_HEAD, channels[0], pooler.resolution),
            MATCHERS.build(node.MATCHER),
            SAMPLERS.build(node.SAMPLER),
            BOX_CODERS.build(node.BOX_CODER),
            BOX_LOSSES.build(node.BOX_LOSS),
            CLASS_LOSSES.build(node.CLASS_LOSS),
            **constructor_arguments(cls, node),
        )

    def forward(self, features, proposals, image_sizes, targets=None, generators=None):
        """Detect or, given targets, compute the losses.

        Args:
            features: list over levels of (N, C, h, w).
            proposals: for each image (R, 4).
            image_sizes: (height, width) of each image, without padding.
            targets: None, or for each image a dict with "boxes" (M, 4) and "labels" (M,).
            generators: for each image a torch.Generator for sampling, or None.

        Returns:
            detections, a list of {"boxes", "scores", "labels"}, empty with targets; losses, a dict, empty without.
        """
        if targets is not None:
            return [], self.losses(features, *self.sample(proposals, targets, generators, features))
        logits, deltas = self.predict(features, proposals)
        return self.detect_batch(proposals, logits, deltas, image_sizes), {}

    def predict(self, features, boxes):
        """Predict for the boxes of all images: logits (S, K + 1), deltas (S, B, 4)."""
        logits, deltas = self.predictor(self.box_head(self.pooler(features, boxes)))
        return logits.float(), deltas.float()

    def sample(self, proposals, targets, generators, features=None):
        """Choose the proposals to train on.

        See :meth:`forward` for the arguments. The features are needed only by samplers that accept losses.

        Returns:
            for each image: boxes (S, 4), positive ones first; labels (S,), 0 for negative ones; gt_boxes (P, 4), the
            objects of the positive ones.
        """
        gt_boxes = [target["boxes"] for target in targets]
        if self.append_gt:
            proposals = [torch.cat(pair) for pair in zip(proposals, gt_boxes, strict=True)]
        counts = [len(boxes) for boxes in proposals]
        matches, matched = self._match(proposals, gt_boxes)

        # Objects are indices into the objects of all images. A last one stands for the objects of images without any.
        all_objects, all_labels = torch.cat(gt_boxes), torch.cat([target["labels"] for target in targets])
        all_matched = torch.cat(matched)
        objects = join_indices(matches, starts_of(gt_boxes))

        # Positive proposals have their object's class; all others count as background.
        all_labels = torch.cat([all_labels, all_labels.new_zeros(1)])
        classes = torch.where(all_matched == 1, all_labels[objects], 0)

        def losses(image):
            return self._class_losses(features, image, proposals[image], classes.split(counts)[image])

        # Positive ones first: losses_from_outputs relies on that order.
        samples = sample_images(self.sampler, matched, generators, losses)
        starts = starts_of(proposals)
        chosen = join_indices([torch.cat(pair) for pair in samples], starts)
        positives = [positive for positive, _ in samples]
        gt_boxes = all_objects[objects[join_indices(positives, starts)]]

        # For the log.
        foreground = len(gt_boxes)
        self.statistics = {
            "roi_foreground": (foreground, len(targets)),
            "roi_background": (len(chosen) - foreground, len(targets)),
        }
        sizes = [len(positive) + len(negative) for positive, negative in samples]
        boxes, labels = torch.cat(proposals)[chosen].split(sizes), classes[chosen].split(sizes)
        return list(boxes), list(labels), list(gt_boxes.split([len(positive) for positive in positives]))

    def _match(self, proposals, gt_boxes):
        """Match each image's proposals to its objects: matches [(R_i,)] and labels [(R_i,)]."""
        counts = torch.tensor([len(boxes) for boxes in proposals])
        if takes_batches(self.matcher, int(counts.max()), gt_boxes):
            boxes = pad_sequence(proposals, batch_first=True)  # [N, R, 4]
            is_box = (torch.arange(boxes.shape[1]) < counts[:, None]).to(boxes.device, non_blocking=True)
            results = match_batch(self.matcher, boxes, is_box, gt_boxes)
            images = zip(proposals, *results, strict=True)
            results = [(matches[: len(boxes)], labels[: len(boxes)]) for boxes, matches, labels in images]
        else:
            images = zip(proposals, gt_boxes, strict=True)
            results = [match(self.matcher, boxes, objects, [len(boxes)]) for boxes, objects in images]
        return [matches for matches, _ in results], [labels for _, labels in results]

    @torch.no_grad()
    def _class_losses(self, features, image, boxes, labels):
        """Return the class loss (R,) of an image's boxes (R, 4) with labels (R,)."""
        logits, _ = self.predict([level[image : image + 1] for level in features], [boxes])
        return self.class_loss(logits, labels)

    def losses(self, features, boxes, labels, gt_boxes):
        """Return {"loss_classifier", "loss_box_reg"}: scalars over all images.

        The boxes, labels and gt_boxes are results of :meth:`sample`.
        """
        return self.losses_from_outputs(*self.predict(features, boxes), boxes, labels, gt_boxes)

    def losses_from_outputs(self, logits, deltas, boxes, labels, gt_boxes):
        """Return the losses of :meth:`losses` from predictions (S, K + 1) and (S, B, 4)."""
        labels = torch.cat(labels)
        class_losses = self.class_loss(logits, labels)  # [S]

        # The positive boxes of an image come first. Only the box of a region's class has a box loss.
        positives = [torch.arange(len(objects)) for objects in gt_boxes]
        positive = join_indices(positives, starts_of(boxes)).to(deltas.device, non_blocking=True)
        class_deltas = deltas[positive, self._box_index(labels[positive], deltas.shape[1])]
        box_loss = functools.partial(regression_losses, self.box_loss, self.box_coder)
        rows = torch.cat(boxes)[positive], class_deltas, torch.cat(gt_boxes)
        box_losses = call_on_images(box_loss, list(map(len, gt_boxes)), *rows)
        class_loss, box_loss = reduce_losses(
            [class_losses],
            [box_losses],
            normalize_by=self.normalize_by,
            box_loss_weight=self.box_loss_weight,
            normalize_class_by=getattr(self.class_loss, "normalize_by", "sampled"),
        )
        return {"loss_classifier": class_loss, "loss_box_reg": box_loss}

    def _box_index(self, labels, num_boxes):
        """Return the index of each label's box, labels from 1, among a region's B boxes."""
        if num_boxes == 1:
            return torch.zeros_like(labels)
        return labels - 1 + (num_boxes - self.num_classes)  # box 0 may be the background's

    def detect(self, proposals, logits, deltas, image_size):
        """Return one image's detections, see :meth:`select`.

        Proposals are (R, 4), logits (R, K + 1), deltas (R, B, 4); the image's size is (height, width).
        """
        return self.select(*self.decode(proposals, logits, deltas), image_size)

    def detect_batch(self, proposals, logits, deltas, image_sizes):
        """Return each image's detections, as :meth:`detect` would. If a subclass overrides it, it is called per image.

        Proposals are [(R_i, 4)]; logits (R, K + 1) and deltas (R, B, 4) are all images' concatenated.
        """
        counts = [len(boxes) for boxes in proposals]
        if type(self).detect is StandardRoIHeads.detect:
            boxes, scores = self.decode(torch.cat(proposals), logits, deltas)
            return self.select_batch(boxes, scores, counts, image_sizes)
        images = zip(proposals, logits.split(counts), deltas.split(counts), image_sizes, strict=True)
        return [self.detect(*image) for image in images]

    def decode(self, proposals, logits, deltas):
        """Return a box of each region for each class, (R, K, 4), and their scores (R, K)."""
        classes = torch.arange(1, self.num_classes + 1, device=deltas.device)
        deltas = deltas[:, self._box_index(classes, deltas.shape[1])]  # [R, K, 4]
        boxes = self.box_coder.decode(proposals.repeat_interleave(self.num_classes, dim=0), deltas.reshape(-1, 4))
        return boxes.view(-1, self.num_classes, 4), object_scores(logits)
