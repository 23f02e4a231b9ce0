"""The results that the contracts of the slots promise, as checks of one result.

:mod:`detlite.guard` checks a part's first result in a run, :mod:`detlite.testing` many results. ``CONTRACTS`` lists the
checks by slot and method. A check takes the :class:`Output`, the result and the arguments of the call. Shape shorthand
as in :mod:`detlite.registry`.
"""

import abc

import torch
from torchvision import tv_tensors

from detlite.description import describe


class Output(abc.ABC):
    """A part's output to check. Subclasses define ``require``, which reports a broken promise."""

    part = None
    context = ()  # numbers that the part was built with, by position
    finite = False  # whether tensors must be finite

    @abc.abstractmethod
    def require(self, condition, expected, got):
        """Raise an error with the expected and actual result if a condition is false."""

    def items(self, result, names):
        """Require a tuple or list with one item per name, and return it."""
        fits = isinstance(result, (tuple, list)) and len(result) == len(names)
        self.require(fits, f"({', '.join(names)})", result)
        return result

    def tensor(self, name, value, shape, dtype=torch.float32, device=None):
        """Require a dense tensor with data, of this shape (None fits any number), type and device, and return it."""
        fits = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.dim() == len(shape)
        if fits:
            allowed = {dtype}
            kind = value.device.type
            self.require(kind != "meta", f"{name} on {device or 'a device with data'}", "on meta")
            if dtype == torch.float32 and torch.is_autocast_enabled(kind):
                allowed.add(torch.get_autocast_dtype(kind))
            pairs = zip(value.shape, shape, strict=True)
            fits = value.dtype in allowed and all(wanted in (None, size) for size, wanted in pairs)
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        finite = "finite " if self.finite else ""
        expected = f"{name}: {finite}{str(dtype).removeprefix('torch.')} ({sizes}{',' * (len(shape) == 1)})"
        self.require(fits and (not self.finite or bool(value.isfinite().all())), expected, value)
        if device is not None:
            self.require(value.device.type == torch.device(device).type, f"{name} on {device}", str(value.device))
        return value


def check_features(output, features, images, *_):
    """Check a backbone's features of images (N, 3, H, W)."""
    channels, strides = output.part.channels, output.part.strides
    fits = isinstance(features, dict) and list(features) == list(strides)
    output.require(fits, f"a dict of the levels {', '.join(strides)}, in this order", features)
    height, width = images.shape[-2:]
    for name, stride in strides.items():
        # A detector pads its images to whole cells. Otherwise the backbone decides how to round.
        is_whole = height % stride == 0 and width % stride == 0
        sides = (height // stride, width // stride) if is_whole else (None, None)
        output.tensor(name, features[name], (len(images), channels[name], *sides), device=images.device)


def check_anchors(output, levels, sizes, device=None, *_):
    """Check an anchor generator's anchors of levels of (h, w) cells."""
    names = [f"level {number}" for number in range(len(sizes))]
    output.items(levels, names)
    for name, anchors, (h, w), count in zip(names, levels, sizes, output.part.num_anchors, strict=True):
        output.tensor(name, anchors, (h * w * count, 4), device=device)


def check_predictions(output, result, features, *_):
    """Check an RPN head's logits and deltas. It is built with (in_channels, num_anchors)."""
    logits, deltas = output.items(result, ["logits", "deltas"])
    names = [f"level {number}" for number in range(len(features))]
    output.items(logits, names)
    output.items(deltas, names)
    for name, level, level_logits, level_deltas in zip(names, features, logits, deltas, strict=True):
        rows = len(level), level.shape[-2] * level.shape[-1] * output.context[1]
        output.tensor(f"logits of {name}", level_logits, (*rows, None), device=level.device)
        output.require(level_logits.shape[-1] in (1, 2), f"logits of {name} with 1 or 2 columns", level_logits)
        output.tensor(f"deltas of {name}", level_deltas, (*rows, 4), device=level.device)


def check_matches(output, result, boxes, gt_boxes, *_):
    """Check a matcher's matches and labels of boxes (R, 4) with objects (M, 4)."""
    matches, labels = _check_pair(output, result, (len(boxes),), boxes.device)
    if not len(gt_boxes):
        output.require(not matches.any(), "matches all 0 without objects", matches)
        output.require(not (labels == 1).any(), "no label 1 without objects", labels)
        return
    fits = bool(((matches >= 0) & (matches < len(gt_boxes))).all())
    output.require(fits, f"matches in 0 ... {len(gt_boxes) - 1}", matches)


def check_match_batch(output, result, boxes, gt_boxes, is_box, *_):
    """Check a matcher's matches and labels of several images, where ``is_box``, (N, R), marks the boxes."""
    _check_pair(output, result, is_box.shape, boxes.device, is_box)


def _check_pair(output, result, shape, device, is_box=...):
    matches, labels = output.items(result, ["matches", "labels"])
    output.tensor("matches", matches, shape, torch.int64, device)
    output.tensor("labels", labels, shape, torch.int64, device)
    wrong = labels[is_box][(labels[is_box] < -1) | (labels[is_box] > 1)].unique().tolist()
    output.require(not wrong, "labels -1, 0 or 1", f"labels {', '.join(map(str, wrong[:5]))}")
    return matches, labels


def check_samples(output, result, labels, *_):
    """Check a sampler's indices into labels (R,): each belongs to a box with the right label, and occurs once."""
    positive, negative = output.items(result, ["positive", "negative"])
    for name, indices, wanted in (("positive", positive, 1), ("negative", negative, 0)):
        output.tensor(name, indices, (None,), torch.int64, labels.device)
        fits = bool(((indices >= 0) & (indices < len(labels))).all())
        output.require(fits, f"{name}: indices into {len(labels)} labels", indices)
        output.require(bool((labels[indices] == wanted).all()), f"{name}: boxes whose label is {wanted}", indices)
        output.require(len(indices.unique()) == len(indices), f"{name}: no box twice", indices)


def check_sample_batch(output, pairs, labels, *_):
    """Check a sampler's indices into the labels [(R_i,)] of several images."""
    output.items(pairs, [f"image {number}" for number in range(len(labels))])
    for pair, image_labels in zip(pairs, labels, strict=True):
        check_samples(output, pair, image_labels)


def check_deltas(output, deltas, boxes, *_):
    """Check a box coder's deltas of boxes (R, 4)."""
    output.tensor("deltas", deltas, (len(boxes), 4), device=boxes.device)


def check_decoded(output, decoded, boxes, *_):
    """Check the boxes that a box coder decodes from boxes (R, 4)."""
    output.tensor("boxes", decoded, (len(boxes), 4), device=boxes.device)
    output.require(not (decoded[:, 2:] < decoded[:, :2]).any(), "x1 <= x2 and y1 <= y2", decoded)


def check_kept(output, result, boxes, scores, groups, limit, *_):
    """Check the boxes (R, 4) that NMS keeps, and their scores."""
    indices, kept_scores = output.items(result, ["indices", "scores"])
    output.tensor("indices", indices, (None,), torch.int64, boxes.device)
    output.tensor("scores", kept_scores, (len(indices),), device=boxes.device)
    output.require(len(indices) <= limit, "at most limit boxes", indices)
    output.require(bool(((indices >= 0) & (indices < len(boxes))).all()), "indices into boxes", indices)
    output.require(len(indices.unique()) == len(indices), "no box twice", indices)
    output.require(bool((kept_scores.diff() <= 0).all()), "scores in descending order", kept_scores)
    output.require(bool((kept_scores <= scores[indices]).all()), "no score above the given one", kept_scores)


def check_losses_of_boxes(output, losses, predicted, *_):
    """Check a loss of predictions (R, C)."""
    output.tensor("losses", losses, (len(predicted),), device=predicted.device)
    has_gradient = losses.requires_grad or not (predicted.requires_grad and torch.is_grad_enabled())
    output.require(has_gradient, "losses with a gradient, also without boxes", "no gradient")


def check_pooled(output, pooled, features, boxes, *_):
    """Check a RoI pooler's cells of boxes [(R_i, 4)] in levels (N, C, h, w)."""
    size = output.part.resolution
    shape = sum(map(len, boxes)), features[0].shape[1], size, size
    output.tensor("pooled", pooled, shape, device=features[0].device)


def check_vectors(output, vectors, pooled, *_):
    """Check a box head's vectors of pooled cells (S, C, P, P)."""
    output.tensor("vectors", vectors, (len(pooled), output.part.out_features), device=pooled.device)


def check_roi_heads(output, result, features, proposals, image_sizes, targets=None, *_):
    """Check the losses of RoI heads, or their detections. They are built with (channels, strides, num_classes)."""
    detections, losses = output.items(result, ["detections", "losses"])
    if targets is None:
        check_detections(output, detections, image_sizes, output.context[-1])
    else:
        check_losses(output, losses)


def check_detector(output, result, images, targets=None, *_):
    """Check the losses of a detector, or its detections. It is built with (num_classes,)."""
    if output.part.training:
        check_losses(output, result)
    else:
        check_detections(output, result, [image.shape[-2:] for image in images], output.context[-1])


def check_losses(output, losses):
    """Require a dict of scalars, at least one of them with a gradient."""
    output.require(isinstance(losses, dict) and losses, "a dict of losses", losses)
    for name, loss in losses.items():
        output.tensor(name, loss, ())
    has_gradient = any(loss.requires_grad for loss in losses.values()) or not torch.is_grad_enabled()
    output.require(has_gradient, "losses with a gradient", losses)


def check_detections(output, detections, image_sizes, num_classes):
    """Require for each image boxes inside it, descending scores, and labels from 1."""
    output.items(detections, [f"image {number}" for number in range(len(image_sizes))])
    keys = {"boxes", "scores", "labels"}
    for number, (detection, (height, width)) in enumerate(zip(detections, image_sizes, strict=True)):
        output.require(isinstance(detection, dict) and keys <= set(detection), f"a dict of {sorted(keys)}", detection)
        where = f"of image {number}"
        scores = output.tensor(f"scores {where}", detection["scores"], (None,))
        boxes = output.tensor(f"boxes {where}", detection["boxes"], (len(scores), 4), device=scores.device)
        labels = output.tensor(f"labels {where}", detection["labels"], (len(scores),), torch.int64, scores.device)
        output.require(bool(((scores >= 0) & (scores <= 1)).all()), f"scores {where} from 0 to 1", scores)
        output.require(bool((scores.diff() <= 0).all()), f"scores {where} in descending order", scores)
        output.require(bool(((labels >= 1) & (labels <= num_classes)).all()), f"labels in 1 ... {num_classes}", labels)
        inside = (boxes >= 0).all() and (boxes <= boxes.new_tensor([width, height] * 2)).all()
        output.require(bool(inside), f"boxes inside image {number} of {(height, width)}", boxes)
        output.require(bool((boxes[:, 2:] >= boxes[:, :2]).all()), f"boxes {where}: x1 <= x2, y1 <= y2", boxes)


def check_record(output, record, index, *_):
    """Check one record of a data set."""
    image, target = output.items(record, ["image", "target"])
    height, width = map(int, output.part.sizes[index])
    output.tensor("image", image, (3, height, width), torch.uint8)
    check_target(output, target, (height, width))
    labels, last = target["labels"], len(output.part.classes)
    output.require(bool(((labels >= 1) & (labels <= last)).all()), f"labels in 1 ... {last}", labels)


def check_truth(output, truth):
    """Check the ground truth of a data set."""
    lists = {"images": {"id", "width", "height"}, "annotations": {"image_id", "category_id", "bbox"}}
    for name, keys in lists.items():
        rows = truth.get(name) if isinstance(truth, dict) else None
        fits = isinstance(rows, list) and all(isinstance(row, dict) and keys <= set(row) for row in rows)
        expected = f"coco(): a dict with {name}, a list of dicts with {', '.join(sorted(keys))}"
        output.require(fits, expected, describe(rows))


def check_transformed(output, result, *_):
    """Check what a transform made of an image and its target."""
    image, target = output.items(result, ["image", "target"])
    output.tensor("image", image, (3, None, None), getattr(image, "dtype", torch.uint8))
    if "boxes" in target:
        check_target(output, target, image.shape[1:])


def check_target(output, target, image_size):
    """Require a target's boxes and labels. Boxes are of an image of (height, width)."""
    output.require(isinstance(target, dict) and {"boxes", "labels"} <= set(target), "target: boxes and labels", target)
    boxes, labels = target["boxes"], target["labels"]
    output.tensor("labels", labels, (None,), torch.int64)
    output.tensor("boxes", boxes, (len(labels), 4))
    if "ignored" in target:
        output.tensor("ignored", target["ignored"], (None, 4))
    output.require(isinstance(boxes, tv_tensors.BoundingBoxes), "boxes: tv_tensors.BoundingBoxes", type(boxes).__name__)
    canvas = f"boxes with canvas_size {tuple(image_size)}, the image's (height, width)"
    output.require(tuple(boxes.canvas_size) == tuple(image_size), canvas, f"{tuple(boxes.canvas_size)}")


def check_results(output, results):
    """Check an evaluator's results."""
    fits = isinstance(results, dict) and all(isinstance(group, dict) for group in results.values())
    output.require(fits and results, 'evaluate(): a dict of dicts, such as {"bbox": {"AP": 0.5}}', describe(results))


def check_summary(output, text):
    """Check the text of an evaluator's results."""
    output.require(isinstance(text, str) and text, "summary(): text", text)


# {slot: {method: check}}; "call" is the call of the part itself.
CONTRACTS = {
    "BACKBONE": {"call": check_features},
    "ANCHOR_GENERATOR": {"call": check_anchors},
    "RPN_HEAD": {"call": check_predictions},
    "MATCHER": {"call": check_matches, "match_batch": check_match_batch},
    "SAMPLER": {"call": check_samples, "sample_batch": check_sample_batch},
    "BOX_CODER": {"encode": check_deltas, "decode": check_decoded},
    "BOX_LOSS": {"call": check_losses_of_boxes},
    "CLASS_LOSS": {"call": check_losses_of_boxes},
    "NMS": {"call": check_kept},
    "ROI_POOLER": {"call": check_pooled},
    "BOX_HEAD": {"call": check_vectors},
    "ROI_HEADS": {"call": check_roi_heads},
    "META_ARCHITECTURE": {"call": check_detector},
    "DATASET": {"__getitem__": check_record, "coco": check_truth},
    "TRANSFORM": {"call": check_transformed, "in_test": check_transformed},
    "EVALUATOR": {"evaluate": check_results, "summary": check_summary},
}
