"""Draw the detector's stages: anchors and the objects that they match, sampled regions, and proposals.

A view is a function of a :class:`Scene` that returns a PIL image. Letters: M objects, R anchors, P of them positive.
"""

import copy
from typing import NamedTuple

import torch
from torchvision.ops import box_iou
from torchvision.transforms.v2.functional import to_dtype

from detlite.config import Config
from detlite.drawing import Panel, color_of, colors_of, sheet
from detlite.errors import UserError
from detlite.modeling.base import image_generator
from detlite.modeling.matcher import centers, exclude_ignored
from detlite.modeling.nms import GreedyNMS
from detlite.modeling.sampler import sample

GRAY, WHITE = (205, 205, 205), (255, 255, 255)
LEVELS = (WHITE, (255, 215, 0), (0, 230, 230), (255, 120, 0), (255, 80, 180))  # not used for objects
SHOWN = 50  # proposals drawn
LISTED = 24  # objects in a legend


class Scene(NamedTuple):
    """An image on its way through a detector."""

    cfg: Config
    model: torch.nn.Module  # in evaluation mode
    is_trained: bool  # whether its weights were loaded
    split: str  # "train" or "test", of the data set and the transforms
    original: torch.Tensor  # (3, H, W) uint8, the file's image
    truth: dict  # the target of `original`
    image: torch.Tensor  # (3, h, w), the transformed image
    target: dict  # the target of `image`, with a "seed"
    score_threshold: float  # lowest score of the detections shown
    draws: tuple = ()  # (image, target) of the image in several epochs, for the view "inputs"

    @property
    def image_size(self):
        """(height, width) of the transformed image."""
        return self.image.shape[-2:]

    def names_of(self, target):
        """Return the class names of a target's objects."""
        return [self.cfg.MODEL.CLASSES[label - 1] for label in target["labels"].tolist()]


def anchors(scene):
    """Draw one cell's anchors, and the anchors of the image that match its objects."""
    rpn, levels, _, _ = _first_stage(scene)
    boxes, gt_boxes = torch.cat(levels), scene.target["boxes"]
    matches, labels = rpn.match(boxes, gt_boxes.to(boxes.device), scene.image_size, list(map(len, levels)))
    boxes, matches, labels = boxes.cpu(), matches.cpu(), labels.cpu()
    exclude_ignored([labels], [boxes], [scene.target])
    positive = (labels == 1).nonzero().flatten()
    ignored = (labels == -1).nonzero().flatten()

    # Left: the cell nearest to the middle of the image, with the anchors of every level.
    grid = Panel(_dimmed(scene.image), "the anchors of one cell of each level", short_side=480)
    middle = torch.tensor(scene.image_size[::-1]) / 2  # (x, y)
    legend = []
    strides = scene.model.backbone.strides
    for index, (name, per_cell) in enumerate(zip(strides, rpn.anchor_generator.num_anchors, strict=True)):
        cells = levels[index].cpu().view(-1, per_cell, 4)  # [h * w, per_cell, 4]
        cell_centers = centers(cells).mean(dim=1)  # [h * w, 2]
        if index == 0:
            grid.points(cell_centers, WHITE)
        color = LEVELS[index % len(LEVELS)]
        nearest = (cell_centers - middle).norm(dim=1).argmin()
        grid.boxes(cells[nearest], [color] * per_cell)
        legend.append((color, f"{name}: stride {strides[name]}, {len(cells)} cells x {per_cell}"))

    # Right: the positive anchors in their object's color, and the centers of ignored ones.
    panel = Panel(_dimmed(scene.image), f"{len(positive)} positive anchors", short_side=480)
    panel.points(centers(boxes[ignored]), GRAY)
    panel.boxes(boxes[positive], colors_of(matches[positive] + 1), width=1)
    _draw_objects(panel, scene)

    legend += _object_legend(scene, matches[positive], box_iou(gt_boxes, boxes))
    caption = (
        f"{len(boxes)} anchors: {len(positive)} positive, thin in their object's color; {int((labels == 0).sum())} "
        f"negative, not drawn; {len(ignored)} ignored (gray centers): their overlap is between the matcher's "
        "thresholds, or they leave the image and MODEL.RPN.INSIDE_ONLY is true.\nIf the best IoU of an object is low, "
        "no anchor has its shape: see MODEL.RPN.ANCHOR_GENERATOR."
    )
    return sheet([grid, panel], legend, caption)


def matches(scene):
    """Draw the sampled anchors and proposals: the regions that the RPN and the RoI heads train on."""
    rpn, levels, logits, deltas = _first_stage(scene, training=True)
    boxes = torch.cat(levels)
    target = dict(scene.target)
    for key in {"boxes", "labels", "ignored"} & target.keys():
        target[key] = target[key].to(boxes.device)

    # As in a training step, the RPN and then the RoI heads draw from one generator. Some samplers also need the losses.
    generator = image_generator(target)
    matched, labels = rpn.match(boxes, target["boxes"], scene.image_size, list(map(len, levels)))
    exclude_ignored([labels], [boxes], [target])
    all_logits = torch.cat(logits, dim=1)[0].float()
    positive, negative = sample(rpn.sampler, labels, generator, lambda: rpn.class_loss(all_logits, labels.clamp(min=0)))
    panels = [_sampled(scene, "RPN", boxes[positive], boxes[negative], matched[positive], dots=True)]

    # The RoI heads, or the first stage of a cascade, sample from the proposals: lists with one item, for one image.
    heads = getattr(scene.model, "roi_heads", None)
    if hasattr(heads, "stages"):
        heads = heads.stages[0]
    if heads is not None:
        ((candidates, _),) = rpn.propose(levels, logits, deltas, [scene.image_size])
        features = scene.model.features([scene.image])
        ((chosen,), _, (gt_boxes,)) = heads.sample([candidates], [target], [generator], features)
        count = len(gt_boxes)
        owners = torch.zeros(0, dtype=torch.int64)
        if count:
            owners = box_iou(gt_boxes, target["boxes"]).argmax(dim=1)
        panels.append(_sampled(scene, "RoI heads", chosen[:count], chosen[count:], owners))
    caption = (
        "Positive regions learn the class and box of their object, negative ones (RPN: gray centers) the background."
    )
    if not scene.is_trained:
        caption += "\nThe detector is untrained: give --weights to see a trained one."
    return sheet(panels, [(GRAY, "negative"), *_object_legend(scene)], caption)


def proposals(scene):
    """Draw the RPN's best predictions before and after NMS."""
    rpn, levels, logits, deltas = _first_stage(scene)
    without_nms = copy.copy(rpn)  # a shallow copy, with the same layers
    without_nms.nms = GreedyNMS(iou=1.0)
    without_nms.post_nms_top_n = without_nms.pre_nms_top_n

    # One panel without NMS and one with it. The best proposals are drawn last, on top.
    panels = []
    for part, moment in ((without_nms, "before NMS"), (rpn, "after NMS")):
        ((boxes, scores),) = part.propose(levels, logits, deltas, [scene.image_size])
        boxes, scores = boxes.cpu(), scores.tolist()
        heading = f"{moment}: {len(boxes)}"
        if len(boxes) > SHOWN:
            heading += f", the best {SHOWN} drawn"
        colors = [_score_color(score) for score in scores[:SHOWN]]
        panel = Panel(_dimmed(scene.image), heading, short_side=480)
        panel.boxes(boxes[:SHOWN].flip(0), colors[::-1], width=1)
        panels.append(panel)

    # `boxes` are now the proposals after NMS.
    gt_boxes = scene.target["boxes"]
    is_near = box_iou(gt_boxes, boxes) >= 0.5  # [M, number of proposals]
    legend = [(_score_color(score), f"score {score:g}") for score in (0.0, 0.25, 0.5, 0.75, 1.0)]
    caption = (
        f"The proposals cover {int(is_near.any(dim=1).sum())} of {len(gt_boxes)} objects with IoU 0.5 or more. An "
        "object that no proposal covers cannot be detected."
    )
    return sheet(panels, legend, caption)


def _first_stage(scene, training=False):
    """Run the RPN: return it, its anchors per level, and its logits and deltas."""
    rpn = getattr(scene.model, "rpn", None)
    if rpn is None:
        raise UserError(f"{type(scene.model).__name__} has no RPN, so there are no anchors to show")
    rpn = copy.copy(rpn)
    rpn.training = training  # decides the number of proposals; the layers stay in evaluation mode
    return rpn, *rpn.predict(scene.model.features([scene.image]))


def _sampled(scene, stage, positive, negative, owners, dots=False):
    """Draw the regions that a stage samples: positive ones in their object's color, negative ones gray or as dots."""
    positive, negative = positive.cpu(), negative.cpu()
    heading = f"{stage}: {len(positive)} positive, {len(negative)} negative sampled"
    panel = Panel(_dimmed(scene.image), heading, short_side=480)
    if dots:
        panel.points(centers(negative), GRAY, radius=2)
    else:
        panel.boxes(negative, [GRAY] * len(negative), width=1)
    panel.boxes(positive, colors_of(owners + 1), width=1)
    _draw_objects(panel, scene)
    return panel


def _draw_objects(panel, scene):
    names = [f"{number} {name}" for number, name in enumerate(scene.names_of(scene.target), start=1)]
    panel.boxes(scene.target["boxes"], colors_of(torch.arange(len(names)) + 1), names, width=3)


def _object_legend(scene, owners=None, iou=None):
    """Return (color, text) per object. ``owners`` (P,): objects of the positive anchors. ``iou``: (M, R)."""
    lines = []
    for index, name in enumerate(scene.names_of(scene.target)[:LISTED]):
        text = f"{index + 1} {name}"
        if owners is not None:
            text += f": {int((owners == index).sum())} positive, best IoU {iou[index].max():.2f}"
        lines.append((color_of(index + 1), text))
    more = len(scene.target["boxes"]) - LISTED
    if more > 0:
        lines.append((WHITE, f"and {more} more"))
    return lines


def _dimmed(image):
    """Return the image as uint8, darker, so that thin lines stand out."""
    return (to_dtype(image, torch.uint8, scale=True) * 0.6).byte()


def _score_color(score):
    """Return a color from dark blue (0) to bright yellow (1), so that low scores recede."""
    return (round(40 + 215 * score), round(70 + 185 * score), round(150 * (1 - score)))
