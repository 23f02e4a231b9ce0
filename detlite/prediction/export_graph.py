"""Express a detector as one graph for any number and size of images, for ``torch.export`` and ONNX.

:class:`~detlite.modeling.faster_rcnn.FasterRCNN` processes one image at a time, with a variable number of boxes. Here
the whole batch is processed at once. Each image has a fixed number of slots for boxes, and unused slots are empty. The
results are equal. Letters: N images, T slots per image, P proposals, K classes, D detections.
"""

import copy
import inspect

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import ops

from detlite.errors import UserError
from detlite.modeling.faster_rcnn import FasterRCNN
from detlite.modeling.losses import object_scores, objectness
from detlite.modeling.nms import GreedyNMS
from detlite.modeling.proposal_network import ProposalNetwork
from detlite.modeling.roi_heads.base import LEAST_SIDE
from detlite.modeling.roi_heads.cascade import CascadeRoIHeads, refine
from detlite.modeling.roi_heads.standard import StandardRoIHeads
from detlite.modeling.rpn import RPN
from detlite.ops.boxes import scale_boxes

EMPTY = float("-inf")  # score of a slot without a box

# The classes for whose detection the graph has its own code. Other modules run in the graph unchanged.
EXPRESSED = (FasterRCNN, ProposalNetwork, RPN, StandardRoIHeads, CascadeRoIHeads, GreedyNMS)
# Attributes that a subclass may replace: the graph calls the first line's, and detection does not use the others.
REPLACEABLE = {
    *("predict", "decode", "_box_index", "pre_nms_top_n", "post_nms_top_n"),
    *("slots", "from_config", "convert_weights", "losses", "losses_from_features", "losses_from_outputs"),
    *("sample", "match", "_class_losses", "_check_targets", "_report_row"),
}


class BatchDetector(nn.Module):
    """A detector in evaluation mode that maps a tensor of images to tensors of detections.

    Args:
        model: a FasterRCNN or ProposalNetwork that :func:`check_classes` accepts.
        resize: a ResizeShortSide with one size, which is applied to the images, or None.
    """

    def __init__(self, model, resize=None):
        super().__init__()
        check_classes(model)
        self.resize = resize
        self.model = copy.deepcopy(model).eval().to(memory_format=torch.contiguous_format)
        # torch.export treats sizes of 0 and 1 as constants, so the feature map must have at least two cells per side.
        self.min_side = 1 + max(model.padding_multiple, *model.backbone.strides.values())

    def forward(self, images):
        """Detect in a batch of images.

        Args:
            images: (N, 3, H, W) uint8, RGB.

        Returns:
            boxes (N, D, 4) xyxy in pixels of ``images``, scores (N, D), labels (N, D) int64, and counts (N,) int64. The
            detections of image i fill its first ``counts[i]`` slots, best first; the other slots are 0.
        """
        # Resize, normalize and pad the pixels like the detector.
        model = self.model
        given_size = images.shape[-2:]
        if self.resize is not None:
            images = resize(images, self.resize.sizes[0], self.resize.max_size, self.min_side)
        size = images.shape[-2:]
        pixels = images.float()
        if model.channel_order == "BGR":
            pixels = pixels.flip(1)
        pixels = (pixels - model.pixel_mean) / model.pixel_std

        features = list(model.backbone(pad(pixels, model.padding_multiple)).values())
        boxes, scores = propose(model.rpn, features, size)
        labels = torch.ones_like(scores, dtype=torch.int64)
        if hasattr(model, "roi_heads"):
            boxes, scores, labels = detect(model.roi_heads, features, boxes, scores, size)
        else:
            scores = torch.where(scores > EMPTY, scores.sigmoid(), scores)  # logits to probabilities

        if self.resize is not None:
            boxes = scale_boxes(boxes.flatten(0, 1), size, given_size).view_as(boxes)

        # Empty slots are set to 0.
        found = scores > EMPTY
        return boxes * found[..., None], torch.where(found, scores, 0.0), labels * found, found.sum(dim=1)


def check_classes(model):
    """Raise a UserError if a detector's stage is of a class, or overrides a method, that the graph does not express."""
    if getattr(model, "has_variants", False):
        remedy = "set MODEL.TEST_FLIP False, TEST_SCALES [1] and TEST_TILE 0"
        raise UserError(f"test-time augmentation and tiles cannot be exported; {remedy}")
    heads = getattr(model, "roi_heads", None)
    stages = [model, getattr(model, "rpn", None), heads, *getattr(heads, "stages", ())]
    stages += [getattr(stage, "nms", None) for stage in stages]
    for stage in filter(None, stages):
        name = type(stage).__name__
        base = next((base for base in EXPRESSED if isinstance(stage, base)), None)
        if base is None:
            names = ", ".join(base.__name__ for base in EXPRESSED)
            raise UserError(f"{name} cannot be exported; a detector and its stages must be {names}")
        names = {*dir(base)} - {*dir(nn.Module)} - REPLACEABLE | {"forward", "__call__"}
        changed = []
        for attribute in sorted(names):
            ours, theirs = (inspect.getattr_static(owner, attribute, None) for owner in (type(stage), base))
            if attribute in vars(stage) or ours is not theirs:
                changed.append(attribute)
        if isinstance(stage, nn.Module) and (stage._forward_hooks or stage._forward_pre_hooks):
            changed.append("forward hook")
        if changed:
            problem = f"it changes {', '.join(changed)} of {base.__name__}, which the graph would not contain"
            remedy = "Change a part that runs in the graph instead, such as a head, pooler or box coder"
            raise UserError(f"{name} cannot be exported: {problem}. {remedy}")


def resize(images, size, max_size, min_side):
    """Resize images (N, 3, H, W) uint8 like ResizeShortSide, to sides of at least ``min_side`` pixels.

    A graph cannot branch on a size, so the new sides are computed in a tensor.
    """
    sides = torch.stack([torch.full((), side, dtype=torch.float64) for side in images.shape[-2:]])
    short, long = sides.amin(dim=0), sides.amax(dim=0)
    sides = torch.where(size * long > max_size * short, sides * max_size / long, sides * size / short)
    height, width = sides.round().clamp(min=1).long().tolist()
    torch._check(height >= min_side)
    torch._check(width >= min_side)
    return F.interpolate(images, size=(height, width), mode="bilinear", antialias=True)


def pad(images, divisor):
    """Pad (N, C, H, W) with zeros on the right and at the bottom, to multiples of a divisor.

    A graph cannot branch on whether a size needs padding, so pixels are selected by index, which works for any size.
    """
    for axis in (2, 3):
        side = images.shape[axis]
        index = torch.arange((side + divisor - 1) // divisor * divisor, device=images.device)
        # Repeat the last row or column beyond the image, and multiply the copies by 0.
        images = images.index_select(axis, index.clamp(max=side - 1)).movedim(axis, -1) * (index < side)
        images = images.movedim(-1, axis)
    return images.contiguous()


def propose(rpn, features, size):
    """Return proposals (N, P, 4) and logits (N, P), equal to the results of ``select_proposals``."""
    anchors, logits, deltas = rpn.predict(features)
    num_images = features[0].shape[0]
    count = rpn.pre_nms_top_n(training=False)

    # Keep ``count`` slots per level, filled with the best boxes.
    all_boxes, all_scores = [], []
    for level, level_logits, level_deltas in zip(anchors, logits, deltas, strict=True):
        level_anchors = level.expand(num_images, -1, -1).reshape(-1, 4)
        boxes = rpn.box_coder.decode(level_anchors, level_deltas.reshape(-1, 4))
        boxes = ops.clip_boxes_to_image(boxes, size).view(num_images, -1, 4)
        scores = objectness(level_logits.flatten(0, 1)).view(num_images, -1)
        is_large = (boxes[..., 2:] - boxes[..., :2] >= rpn.min_size).all(dim=2)
        is_valid = is_large & (scores > EMPTY)  # false for NaN
        if rpn.score_threshold > 0:
            is_valid &= scores.sigmoid() >= rpn.score_threshold
        scores = torch.where(is_valid, scores, EMPTY)
        boxes, scores, _ = best(boxes, scores, count)
        all_boxes.append(boxes)
        all_scores.append(scores)

    levels = torch.arange(len(anchors), device=features[0].device).repeat_interleave(count)
    boxes = torch.cat(all_boxes, dim=1)
    scores = suppress(boxes, torch.cat(all_scores, dim=1), levels, rpn.nms, size)
    boxes, scores, _ = best(boxes, scores, rpn.post_nms_top_n(training=False))
    return boxes, scores


def detect(heads, features, boxes, scores, size):
    """Return boxes (N, D, 4), scores and labels (N, D) from proposals (N, P, 4) with scores (N, P)."""
    # Poolers take the regions of all images in one tensor, with rows (image index, x1, y1, x2, y2).
    num_images, count = scores.shape
    owners = torch.arange(num_images, device=boxes.device).repeat_interleave(count)[:, None].to(boxes.dtype)
    regions = boxes.reshape(-1, 4)
    if isinstance(heads, CascadeRoIHeads):
        class_scores = 0
        for stage in heads.stages:
            logits, deltas, _ = stage.predict(features, torch.cat([owners, regions], dim=1))
            class_scores = class_scores + object_scores(logits) / len(heads.stages)
            (regions,) = refine(stage.box_coder, [regions], deltas, [size])
        class_boxes = regions[:, None].expand(-1, heads.num_classes, 4)
    else:
        logits, deltas, _ = heads.predict(features, torch.cat([owners, regions], dim=1))
        class_boxes, class_scores = heads.decode(regions, logits, deltas)

    # Give each proposal one slot per class: (N * P, K, ...) -> (N, P * K, ...).
    num_slots = count * heads.num_classes
    boxes = ops.clip_boxes_to_image(class_boxes.reshape(-1, 4), size).view(-1, num_slots, 4)
    class_scores = class_scores.reshape(-1, num_slots)
    is_region = (scores > EMPTY).repeat_interleave(heads.num_classes, dim=1)
    is_large = (boxes[..., 2:] - boxes[..., :2] >= LEAST_SIDE).all(dim=2)
    keep = is_region & is_large & (class_scores > heads.score_threshold)

    classes = torch.arange(heads.num_classes, device=boxes.device).repeat(count)
    class_scores = suppress(boxes, torch.where(keep, class_scores, EMPTY), classes, heads.nms, size)
    boxes, scores, slots = best(boxes, class_scores, heads.detections_per_image)
    return boxes, scores, slots % heads.num_classes + 1


def best(boxes, scores, count):
    """Return the ``count`` best of T boxes per image: boxes (N, count, 4), scores and slots (N, count)."""
    scores, slots = F.pad(scores, (0, count), value=EMPTY).topk(count)  # padded, because T may be less than count
    return F.pad(boxes, (0, 0, 0, count)).gather(1, slots[..., None].expand(-1, -1, 4)), scores, slots


def suppress(boxes, scores, groups, nms, size):
    """Run NMS per image and group, and return the scores (N, T) with EMPTY for suppressed boxes.

    A single NMS is enough: boxes are shifted down by image and to the right by group, so that only boxes of the same
    image and group can overlap.

    Args:
        boxes, scores: (N, T, 4), clipped to the image, and (N, T).
        groups: (T,) int64, the class or level of each slot.
        nms: the GreedyNMS.
        size: (height, width) of the images.
    """
    height, width = size
    if nms.class_agnostic:
        groups = torch.zeros_like(groups)
    flat = scores.flatten()
    filled = (flat > EMPTY).nonzero().flatten()
    image, slot = filled // groups.shape[0], filled % groups.shape[0]
    offsets = torch.stack([groups.index_select(0, slot) * (width + 1), image * (height + 1)], dim=1)
    candidates = boxes.reshape(-1, 4).index_select(0, filled) + offsets.to(boxes.dtype).repeat(1, 2)
    kept = filled.index_select(0, ops.nms(candidates, flat.index_select(0, filled), nms.iou))
    result = torch.full_like(flat, EMPTY).scatter(0, kept, flat.index_select(0, kept))
    return result.view(-1, groups.shape[0])
