"""The second stage of Faster R-CNN (Girshick 2015, Ren et al. 2015).

Shape shorthand: N images, R proposals, S sampled ones, P positive ones, M objects, K classes, B boxes predicted per
region.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detlite import registry
from detlite.errors import require
from detlite.modeling.losses import check_class_weights, object_scores, reduce_losses, regression_losses
from detlite.modeling.matcher import exclude_ignored, match_images
from detlite.modeling.roi_heads.base import RoIHeadsBase, add_features
from detlite.modeling.sampler import sample_images
from detlite.ops.batches import join_indices, pad_boxes, starts_of
from detlite.parts import Slot, build_slots
from detlite.signature import constructor_arguments


class BoxPredictor(nn.Module):
    """Class logits and box deltas, one linear layer each."""

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


@registry.ROI_HEADS.register()
class StandardRoIHeads(RoIHeadsBase):
    """Pool each proposal, and predict its class and its exact box.

    Args:
        append_gt: whether the objects join the proposals in training.
        box_outputs: boxes predicted per region. "classes and background" is the paper's: one per class, and an unused
            one for the background. "classes" is one per class, "agnostic" one for all classes.
        spare_outputs: outputs after the classes' that are never reported: 10 for COCO's ids that no class has.
    """

    slots = {
        "POOLER": Slot(registry.ROI_POOLERS, "RoIPool"),
        "BOX_HEAD": Slot(registry.BOX_HEADS, "FCBoxHead"),
        "MATCHER": Slot(registry.MATCHERS, "MaxIoUMatcher", foreground_iou=0.5, background_iou=0.5, keep_best=False),
        "SAMPLER": Slot(registry.SAMPLERS, "BalancedSampler", num_samples=128, positive_fraction=0.25),
        "BOX_CODER": Slot(registry.BOX_CODERS, "DeltaBoxCoder", weights=[10.0, 10.0, 5.0, 5.0]),
        "BOX_LOSS": Slot(registry.BOX_LOSSES, "SmoothL1Loss", beta=1.0),
        "CLASS_LOSS": Slot(registry.CLASS_LOSSES, "CrossEntropyLoss"),
        "NMS": Slot(registry.NMS, "GreedyNMS", iou=0.3),
    }

    def __init__(
        self,
        num_classes: int,
        pooler: Any,
        box_head: Any,
        matcher: Any,
        sampler: Any,
        box_coder: Any,
        box_loss: Any,
        class_loss: Any,
        nms: Any,
        *,
        append_gt: bool = True,
        box_outputs: Literal["classes and background", "classes", "agnostic"] = "classes and background",
        spare_outputs: int = 0,
        **kwargs: Any,
    ):
        super().__init__(num_classes, nms, **kwargs)
        check_class_weights(class_loss, num_classes)
        require(spare_outputs >= 0, "spare_outputs must be 0 or more", spare_outputs)
        self.num_outputs = num_outputs = num_classes + spare_outputs
        num_boxes = {"classes and background": num_outputs + 1, "classes": num_outputs, "agnostic": 1}[box_outputs]
        self.pooler = pooler
        self.box_head = box_head
        stds = self.class_init_std, self.box_init_std
        self.predictor = BoxPredictor(box_head.out_features, num_outputs, num_boxes, *stds)
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
        pooler = registry.ROI_POOLERS.build(node.POOLER, strides)
        box_head = registry.BOX_HEADS.build(node.BOX_HEAD, channels[0], pooler.resolution)
        others = build_slots(cls, node, "MATCHER", "SAMPLER", "BOX_CODER", "BOX_LOSS", "CLASS_LOSS", "NMS")
        return cls(num_classes, pooler, box_head, *others, **constructor_arguments(cls, node))

    def forward(
        self, features: list, proposals: list[Tensor], image_sizes: list, targets: Any = None, generators: Any = None
    ) -> tuple:
        """Detect or, given targets, compute the losses.

        Args:
            features: list over levels of (N, C, h, w).
            proposals: for each image (R, 4).
            image_sizes: (height, width) of each image, without padding.
            targets: None, or for each image a dict with "boxes" (M, 4), "labels" (M,), and maybe "ignored" (I, 4).
            generators: for each image a torch.Generator for sampling, or None.

        Returns:
            detections: for each image {"boxes", "scores", "labels"}; with targets an empty list.
            losses: {name: scalar}; empty without targets.
        """
        if targets is not None:
            boxes, labels, gt_boxes = self.sample(proposals, targets, generators, features)
            return [], self.losses(features, boxes, labels, gt_boxes)
        logits, deltas, vectors = self.predict(features, proposals)
        detections = self.detect_batch(proposals, logits, deltas, image_sizes)
        return add_features(detections, vectors, proposals), {}

    def predict(self, features, boxes):
        """Predict for the boxes of all images: logits (S, K + 1), deltas (S, B, 4), the box head's output (S, D)."""
        vectors = self.box_head(self.pooler(features, boxes))
        logits, deltas = self.predictor(vectors)
        return logits.float(), deltas.float(), vectors.float()

    def sample(self, proposals, targets, generators, features=None):
        """Choose the proposals to train on.

        The arguments are the arguments of :meth:`forward`. Only a sampler that accepts losses needs the features.

        Returns:
            boxes: for each image (S, 4), positive ones first.
            labels: for each image (S,), 0 for negative boxes.
            gt_boxes: for each image (P, 4), the objects of the positive boxes.
        """
        gt_boxes = [target["boxes"] for target in targets]
        if self.append_gt:
            proposals = [torch.cat(pair) for pair in zip(proposals, gt_boxes, strict=True)]
        counts = [len(boxes) for boxes in proposals]
        matches, match_labels = match_images(self.matcher, *pad_boxes(proposals), gt_boxes)  # [N, R] with padding
        matches = [row[:count] for row, count in zip(matches, counts, strict=True)]
        match_labels = [row[:count] for row, count in zip(match_labels, counts, strict=True)]
        exclude_ignored(match_labels, proposals, targets)

        # Join the images: a match becomes an index into all objects. In an image without objects it may be the index
        # after the last object, so the padded classes have one more entry.
        objects = join_indices(matches, starts_of(gt_boxes))
        all_classes = F.pad(torch.cat([target["labels"] for target in targets]), (0, 1))
        classes = torch.where(torch.cat(match_labels) == 1, all_classes[objects], 0)

        def losses(image):
            return self._class_losses(features, image, proposals[image], classes.split(counts)[image])

        samples = sample_images(self.sampler, match_labels, generators, losses)
        chosen, foreground = samples.indices, len(samples.positive)
        numbers = {"roi_foreground": foreground, "roi_background": len(chosen) - foreground}
        self.statistics = {name: (number, len(targets)) for name, number in numbers.items()}
        boxes = torch.cat(proposals)[chosen].split(samples.counts)
        labels = classes[chosen].split(samples.counts)
        positive_objects = torch.cat(gt_boxes)[objects[samples.positive]].split(samples.positive_counts)
        return list(boxes), list(labels), list(positive_objects)

    @torch.no_grad()
    def _class_losses(self, features, image, boxes, labels):
        """Return the class loss (R,) of an image's boxes (R, 4) with labels (R,)."""
        logits, *_ = self.predict([level[image : image + 1] for level in features], [boxes])
        return self.class_loss(logits, labels)

    def losses(self, features, boxes, labels, gt_boxes):
        """Return {"loss_classifier", "loss_box_reg"}, scalars, for the results of :meth:`sample`."""
        logits, deltas, _ = self.predict(features, boxes)
        return self.losses_from_outputs(logits, deltas, boxes, labels, gt_boxes)

    def losses_from_outputs(self, logits, deltas, boxes, labels, gt_boxes):
        """Return the losses of :meth:`losses` from predictions (S, K + 1) and (S, B, 4)."""
        labels = torch.cat(labels)
        class_losses = self.class_loss(logits, labels)  # [S]

        # The first regions of an image are positive. They alone have a box loss, of the box for their class.
        counts = [len(objects) for objects in gt_boxes]
        positive = join_indices(list(map(torch.arange, counts)), starts_of(boxes)).to(deltas.device, non_blocking=True)
        class_deltas = deltas[positive, self._box_index(labels[positive], deltas.shape[1])]
        positive_boxes, objects = torch.cat(boxes)[positive], torch.cat(gt_boxes)
        box_losses = regression_losses(self.box_loss, self.box_coder, positive_boxes, class_deltas, objects, counts)
        class_loss, box_loss = reduce_losses(self, class_losses, box_losses)
        return {"loss_classifier": class_loss, "loss_box_reg": box_loss}

    def _box_index(self, labels, num_boxes):
        """Return each label's index (0 to B - 1) into the boxes of a region; labels are 1 to K."""
        if num_boxes == 1:
            return torch.zeros_like(labels)
        return labels if num_boxes > self.num_outputs else labels - 1  # with more, box 0 is the background's

    def detect(self, proposals, logits, deltas, image_size):
        """Return the detections of one image of (height, width), see :meth:`select_batch`.

        Proposals are (R, 4), logits (R, K + 1) and deltas (R, B, 4).
        """
        return self.select(*self.decode(proposals, logits, deltas), image_size)

    def detect_batch(self, proposals, logits, deltas, image_sizes):
        """Return each image's detections from proposals [(R_i, 4)], logits (R, K + 1) and deltas (R, B, 4).

        Logits and deltas are for the proposals of all images. If a subclass overrides :meth:`detect`, call its method
        for each image.
        """
        counts = [len(boxes) for boxes in proposals]
        if type(self).detect is StandardRoIHeads.detect:
            boxes, scores = self.decode(torch.cat(proposals), logits, deltas)
            return self.select_batch(boxes, scores, counts, image_sizes)
        images = zip(proposals, logits.split(counts), deltas.split(counts), image_sizes, strict=True)
        return [self.detect(*image) for image in images]

    def decode(self, proposals, logits, deltas):
        """Return each region's boxes (R, K, 4) and scores (R, K), one per class."""
        classes = torch.arange(1, self.num_classes + 1, device=deltas.device)
        deltas = deltas[:, self._box_index(classes, deltas.shape[1])]  # [R, K, 4]
        repeated = proposals.repeat_interleave(self.num_classes, dim=0)  # [R * K, 4]
        boxes = self.box_coder.decode(repeated, deltas.reshape(-1, 4))
        return boxes.view(-1, self.num_classes, 4), object_scores(logits)[:, : self.num_classes]
