"""A detector as one graph for images of any number and size, for ``torch.export`` and ONNX.

What :class:`~detlite.modeling.faster_rcnn.FasterRCNN` does image by image, with as many boxes as there are, is done
here for all images at once, with fixed numbers of places, of which some stay empty. The numbers are the same.

Letters: N images, T places for boxes in an image, P proposals, K classes, D detections.
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import nms

from detlite.errors import UserError
from detlite.modeling.losses import object_scores
from detlite.modeling.roi_heads.cascade import CascadeRoIHeads, refine
from detlite.modeling.roi_heads.standard import StandardRoIHeads
from detlite.modeling.rpn.rpn import objectness

EMPTY = float("-inf")  # score of a place without a box


class BatchDetector(nn.Module):
    """A detector in evaluation mode, from one tensor of images to tensors of detections.

    Args:
        model: a FasterRCNN or ProposalNetwork.

    Raises:
        UserError: it is another detector, or has other RoI heads than the built-in ones.
    """

    def __init__(self, model):
        super().__init__()
        heads = getattr(model, "roi_heads", None)
        if not hasattr(model, "rpn") or not isinstance(heads, (StandardRoIHeads, CascadeRoIHeads, type(None))):
            name = type(model if heads is None else heads).__name__
            raise UserError(f"{name} cannot be exported: detectors with StandardRoIHeads, CascadeRoIHeads or none can")
        self.model = copy.deepcopy(model).eval().to(memory_format=torch.contiguous_format)

    def forward(self, images):
        """Detect.

        Args:
            images: (N, 3, H, W) uint8, RGB.

        Returns:
            boxes (N, D, 4) xyxy in pixels, scores (N, D), labels (N, D) int64, best first, and counts (N,) int64: an
            image's detections are the first so many; the rest is 0.
        """
        model = self.model
        height, width = size = images.shape[-2:]
        pixels = images.float()
        pixels = pixels.flip(1) if model.channel_order == "BGR" else pixels
        pixels = (pixels - model.pixel_mean) / model.pixel_std
        stride = max(model.backbone.strides.values())
        features = list(model.backbone(pad(pixels, stride)).values())
        boxes, scores = propose(model.rpn, features, size)
        labels = torch.ones_like(scores, dtype=torch.int64)
        if hasattr(model, "roi_heads"):
            boxes, scores, labels = detect(model.roi_heads, features, boxes, scores, size)
        else:
            scores = torch.where(scores > EMPTY, scores.sigmoid(), scores)
        found = scores > EMPTY
        return boxes * found[..., None], torch.where(found, scores, 0.0), labels * found, found.sum(dim=1)


def pad(images, divisor):
    """Zeros to the right and below (N, C, H, W), up to multiples of a divisor: without a case for no padding at all."""
    for axis in (2, 3):
        side = images.shape[axis]
        index = torch.arange((side + divisor - 1) // divisor * divisor, device=images.device)
        images = images.index_select(axis, index.clamp(max=side - 1)).movedim(axis, -1) * (index < side)
        images = images.movedim(-1, axis)
    return images.contiguous()


def propose(rpn, features, size):
    """Proposals (N, P, 4) and logits (N, P); see :func:`~detlite.modeling.rpn.proposals.select_proposals`."""
    logits, deltas = rpn.head(features)
    anchors = rpn.anchor_generator([level.shape[-2:] for level in features], features[0].device)
    count = rpn.pre_nms_top_n(training=False)
    all_boxes, all_scores = [], []
    for level, level_logits, level_deltas in zip(anchors, logits, deltas, strict=True):
        images = level_logits.shape[0]
        boxes = rpn.box_coder.decode(level.expand(images, -1, -1).reshape(-1, 4), level_deltas.reshape(-1, 4))
        boxes = clip(boxes, size).view(images, -1, 4)
        scores = objectness(level_logits.flatten(0, 1)).view(images, -1)
        scores = torch.where(is_large(boxes, rpn.min_size), scores, EMPTY)
        boxes, scores, _ = best(boxes, scores, count)
        all_boxes.append(boxes)
        all_scores.append(scores)
    levels = torch.arange(len(anchors), device=features[0].device).repeat_interleave(count)
    boxes, scores = torch.cat(all_boxes, dim=1), torch.cat(all_scores, dim=1)
    boxes, scores, _ = best(
        boxes, survivors(boxes, scores, levels, rpn.nms_iou, size), rpn.post_nms_top_n(training=False)
    )
    return boxes, scores


def detect(heads, features, boxes, scores, size):
    """Detections (N, D, 4), (N, D), (N, D) from proposals (N, P, 4) and their scores (N, P)."""
    images, count = scores.shape
    owners = torch.arange(images, device=boxes.device).repeat_interleave(count)[:, None].to(boxes.dtype)
    regions = boxes.reshape(-1, 4)
    if isinstance(heads, CascadeRoIHeads):
        class_scores = 0
        for stage in heads.stages:
            logits, deltas = stage.predict(features, torch.cat([owners, regions], dim=1))
            class_scores = class_scores + object_scores(logits) / len(heads.stages)
            (regions,) = refine(stage.box_coder, [regions], deltas, [size])
        class_boxes = regions[:, None].expand(-1, heads.num_classes, 4)
    else:
        logits, deltas = heads.predict(features, torch.cat([owners, regions], dim=1))
        class_boxes, class_scores = heads.decode(regions, logits, deltas)
    places = count * heads.num_classes
    boxes = clip(class_boxes.reshape(-1, 4), size).view(-1, places, 4)
    class_scores = class_scores.reshape(-1, places)
    is_region = (scores > EMPTY).repeat_interleave(heads.num_classes, dim=1)
    keep = is_region & (class_scores > heads.score_threshold) & is_large(boxes, 1e-2)
    classes = torch.arange(heads.num_classes, device=boxes.device).repeat(count)
    kept = survivors(boxes, torch.where(keep, class_scores, EMPTY), classes, heads.nms_iou, size)
    boxes, scores, place = best(boxes, kept, heads.detections_per_image)
    return boxes, scores, place % heads.num_classes + 1


def clip(boxes, size):
    """Boxes (R, 4) clipped to (height, width)."""
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    return torch.stack([x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], dim=1)


def is_large(boxes, min_size):
    """Which boxes (..., 4) have no side shorter than that."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= min_size).all(dim=-1)


def best(boxes, scores, count):
    """The best of each image's (N, T, 4) and (N, T): (N, count, 4), (N, count) and their places (N, count)."""
    scores, place = F.pad(scores, (0, count), value=EMPTY).topk(count)  # padded, as there may be fewer
    return F.pad(boxes, (0, 0, 0, count)).gather(1, place[..., None].expand(-1, -1, 4)), scores, place


def survivors(boxes, scores, groups, iou, size):
    """Scores (N, T), EMPTY where a box overlaps a better one of its image and group too much.

    One NMS for all: images lie below one another, groups beside one another, so that boxes of different ones are apart.

    Args:
        boxes: (N, T, 4), within the image.
        scores: (N, T).
        groups: (T,) int64, the class or level of each place.
        iou: boxes that overlap a better one more than this are dropped.
        size: (height, width).
    """
    height, width = size
    flat = scores.flatten()
    index = (flat > EMPTY).nonzero().flatten()
    image, place = index // groups.shape[0], index % groups.shape[0]
    offsets = torch.stack([groups.index_select(0, place) * (width + 1), image * (height + 1)], dim=1)
    candidates = boxes.reshape(-1, 4).index_select(0, index) + offsets.to(boxes.dtype).repeat(1, 2)
    kept = index.index_select(0, nms(candidates, flat.index_select(0, index), iou))
    left = torch.full_like(flat, EMPTY).scatter(0, kept, flat.index_select(0, kept))
    return left.view(-1, groups.shape[0])
