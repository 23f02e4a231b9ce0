"""Views of the detector's stages: anchors and the objects they match, what is sampled, which proposals survive."""

import copy

import torch
from torchvision.ops import box_iou

from detlite.drawing import Panel, color_of, sheet
from detlite.errors import UserError
from detlite.inspection.scene import object_names
from detlite.modeling.base import image_generator
from detlite.modeling.sampler import sample

GRAY, WHITE = (205, 205, 205), (255, 255, 255)
LEVELS = (WHITE, (255, 215, 0), (0, 230, 230), (255, 120, 0), (255, 80, 180))  # unlike the objects' colors
SHOWN = 50  # proposals drawn
LISTED = 24  # objects in a legend
UNTRAINED = "\nThe detector is untrained: give --weights to see what a trained one does."


def anchors(scene):
    """One cell's anchors, and which anchors of the image match which object."""
    rpn, levels, _, _ = _first_stage(scene)
    counts = [len(level) for level in levels]
    boxes, target = torch.cat(levels), scene.target
    matches, labels = rpn.match(boxes, target["boxes"].to(boxes.device), scene.image.shape[-2:], counts)
    boxes, matches, labels = boxes.cpu(), matches.cpu(), labels.cpu()

    grid = Panel(_dimmed(scene.image), "the anchors of one cell of each level", short_side=480)
    names, strides = list(scene.model.backbone.strides), list(scene.model.backbone.strides.values())
    legend = []
    for place, (level, per_cell) in enumerate(zip(levels, rpn.anchor_generator.num_anchors, strict=True)):
        cells = level.cpu().view(-1, per_cell, 4)  # [h * w, A, 4]
        middles = (cells[:, :, :2] + cells[:, :, 2:]).mean(dim=1) / 2
        height, width = scene.image.shape[-2:]
        cell = (middles - torch.tensor([width / 2, height / 2])).norm(dim=1).argmin()
        if place == 0:
            grid.points(middles, WHITE)
        color = LEVELS[place % len(LEVELS)]
        grid.boxes(cells[cell], [color] * per_cell)
        legend.append((color, f"{names[place]}: stride {strides[place]}, {len(cells)} cells x {per_cell}"))

    panel = Panel(_dimmed(scene.image), f"{int((labels == 1).sum())} positive anchors", short_side=480)
    positive = (labels == 1).nonzero().flatten()
    between = (labels == -1).nonzero().flatten()
    inside = between[_is_inside(boxes[between], scene.image.shape[-2:])]
    panel.points((boxes[inside, :2] + boxes[inside, 2:]) / 2, GRAY)
    panel.boxes(boxes[positive], [_object_color(k) for k in matches[positive].tolist()], width=1)
    _draw_objects(panel, scene)
    legend += _object_legend(scene, matches[positive], box_iou(target["boxes"], boxes))
    caption = (
        f"{len(boxes)} anchors: {len(positive)} positive, thin in their object's color; {int((labels == 0).sum())} "
        f"negative, not drawn; {len(inside)} ignored, their centers gray, as they overlap an object neither enough nor "
        f"little enough; {len(between) - len(inside)} ignored as they leave the image. White dots are the "
        f"{names[0]} cells' centers.\nMatched by {_call(scene.cfg.MODEL.RPN.MATCHER)}. An object whose best IoU is low "
        "has no anchor of its shape: see MODEL.RPN.ANCHOR_GENERATOR."
    )
    return sheet([grid, panel], legend, caption)


def matches(scene):
    """What the RPN and the RoI heads are trained on: the sampled anchors and proposals."""
    rpn, levels, logits, deltas = _first_stage(scene, training=True)
    size, target = scene.image.shape[-2:], {**scene.target}
    boxes = torch.cat(levels)
    target["boxes"], target["labels"] = target["boxes"].to(boxes.device), target["labels"].to(boxes.device)
    generator = image_generator(target)
    matched, labels = rpn.match(boxes, target["boxes"], size, [len(level) for level in levels])
    all_logits = torch.cat(logits, dim=1)[0].float()
    positive, negative = sample(rpn.sampler, labels, generator, lambda: rpn.class_loss(all_logits, labels.clamp(min=0)))
    panels = [_sampled(scene, "RPN", boxes[positive].cpu(), boxes[negative].cpu(), matched[positive].cpu(), dots=True)]
    heads = getattr(scene.model, "roi_heads", None)
    heads = heads.stages[0] if hasattr(heads, "stages") else heads
    caption = (
        f"RPN: of {int((labels == 1).sum())} positive and {int((labels == 0).sum())} negative anchors "
        f"{_call(scene.cfg.MODEL.RPN.SAMPLER)} takes {len(positive)} and {len(negative)}."
    )
    if heads is not None:
        ((candidates, _),) = rpn.propose(levels, logits, deltas, [size])
        features = scene.model.features([scene.image])
        ((chosen,), (classes,), (gt_boxes,)) = heads.sample([candidates], [target], [generator], features)
        owners = box_iou(gt_boxes, target["boxes"]).argmax(dim=1).cpu() if len(gt_boxes) else torch.zeros(0).long()
        chosen, count = chosen.cpu(), len(gt_boxes)
        panels.append(_sampled(scene, "RoI heads", chosen[:count], chosen[count:], owners))
        caption += (
            f"\nRoI heads: of {len(candidates)} proposals, to which the objects themselves are added where APPEND_GT "
            f"says so, {_call(scene.cfg.MODEL.ROI_HEADS.SAMPLER)} takes {count} positive and {len(chosen) - count} "
            "negative ones. Positive ones learn the class and the box of their object, negative ones the background."
        )
    caption += "" if scene.is_trained else UNTRAINED
    return sheet(panels, [(GRAY, "negative"), *_object_legend(scene)], caption)


def proposals(scene):
    """The RPN's best predictions before and after NMS."""
    rpn, levels, logits, deltas = _first_stage(scene)
    size = scene.image.shape[-2:]
    crowded = copy.copy(rpn)  # a shallow one: the same layers
    crowded.nms_iou = 1.0
    crowded.post_nms_top_n_train, crowded.post_nms_top_n_test = rpn.pre_nms_top_n_train, rpn.pre_nms_top_n_test
    panels, found = [], []
    for part, when in ((crowded, "before NMS"), (rpn, f"after NMS at IoU {rpn.nms_iou:g}")):
        ((boxes, scores),) = part.propose(levels, logits, deltas, [size])
        boxes, scores = boxes.cpu(), scores.sigmoid().cpu()
        heading = f"{when}: {len(boxes)}" + (f", the best {SHOWN} drawn" if len(boxes) > SHOWN else "")
        panel = Panel(_dimmed(scene.image), heading, short_side=480)
        order = range(min(SHOWN, len(boxes)))[::-1]  # the best on top
        names = [f"{scores[place]:.2f}" if place < 8 else "" for place in order]
        colors = [_score_color(scores[place].item()) for place in order]
        panel.boxes(boxes[list(order)], colors, names, width=1)
        panels.append(panel)
        found.append(boxes)
    gt_boxes = scene.target["boxes"]
    recall = [
        int((box_iou(gt_boxes, boxes).max(dim=1).values >= 0.5).sum()) if len(boxes) and len(gt_boxes) else 0
        for boxes in (found[1], found[1][:SHOWN])
    ]
    caption = (
        f"Of {sum(map(len, levels))} anchors, moved by the RPN's deltas and clipped to the image, those with a side "
        f"below {rpn.min_size:g} px are dropped, and the best {rpn.pre_nms_top_n_test} of each level enter NMS; the "
        f"best {rpn.post_nms_top_n_test} survivors go to the RoI heads. The color is the score of being an object; "
        f"the best eight have it written.\nOf {len(gt_boxes)} objects {recall[0]} are overlapped by a proposal at IoU "
        f"0.5 or more, {recall[1]} by one of the best {SHOWN}: what no proposal covers, no detection can find."
    )
    legend = [(_score_color(score), f"score {score:g}") for score in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return sheet(panels, legend, caption + ("" if scene.is_trained else UNTRAINED))


def _first_stage(scene, training=False):
    """The RPN, its anchors of each level, and its logits and deltas."""
    rpn = getattr(scene.model, "rpn", None)
    if rpn is None:
        raise UserError(f"{type(scene.model).__name__} has no RPN, so there are no anchors to show")
    rpn = copy.copy(rpn)
    rpn.training = training  # how many proposals there are depends on it; the layers stay in evaluation mode
    features = scene.model.features([scene.image])
    logits, deltas = rpn.head(features)
    return rpn, rpn.anchor_generator([level.shape[-2:] for level in features], features[0].device), logits, deltas


def _sampled(scene, what, positive, negative, owners, dots=False):
    heading = f"{what}: {len(positive)} positive, {len(negative)} negative sampled"
    panel = Panel(_dimmed(scene.image), heading, short_side=480)
    if dots:
        panel.points((negative[:, :2] + negative[:, 2:]) / 2, GRAY, radius=2)
    else:
        panel.boxes(negative, [GRAY] * len(negative), width=1)
    panel.boxes(positive, [_object_color(k) for k in owners.tolist()], width=1)
    _draw_objects(panel, scene)
    return panel


def _draw_objects(panel, scene):
    count = len(scene.target["boxes"])
    names = [f"{k + 1} {name}" for k, name in enumerate(object_names(scene, scene.target))]
    panel.boxes(scene.target["boxes"], [_object_color(k) for k in range(count)], names, width=3)


def _object_color(place):
    return color_of(place + 1)


def _object_legend(scene, owners=None, iou=None):
    """A line for each object; with the positive anchors' objects (P,) and the IoU (M, R), how well it is served."""
    lines = []
    for place, name in enumerate(object_names(scene, scene.target)[:LISTED]):
        text = f"{place + 1} {name}"
        if owners is not None:
            text += f": {int((owners == place).sum())} positive, best IoU {iou[place].max():.2f}"
        lines.append((_object_color(place), text))
    more = len(scene.target["boxes"]) - LISTED
    return lines + ([(WHITE, f"and {more} more")] if more > 0 else [])


def _is_inside(boxes, size):
    limits = boxes.new_tensor([size[1], size[0]])
    return ((boxes[:, :2] >= 0) & (boxes[:, 2:] <= limits)).all(dim=1)


def _dimmed(image):
    """The image as uint8, paler and darker, so that thin lines stand out."""
    pixels = image.float() if image.dtype == torch.uint8 else image.float() * 255
    gray = pixels.mean(dim=0, keepdim=True)
    return ((pixels * 0.5 + gray * 0.5) * 0.6).round().byte()


def _score_color(score):
    """From dark blue (0) to bright yellow (1), so that what scores little recedes."""
    return (round(40 + 215 * score), round(70 + 185 * score), round(150 * (1 - score)))


def _call(node):
    """A config node as the constructor call that it is."""
    keys = ", ".join(f"{key.lower()}={value}" for key, value in node.plain().items() if key != "NAME")
    return f"{node.NAME}({keys})"
