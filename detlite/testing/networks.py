"""Check the parts inside a detector's stages: backbones, poolers and heads."""

import copy

import torch
from torch import nn

from detlite.modeling.precision import allowing_tf32
from detlite.registry import BACKBONES, BOX_HEADS, ROI_POOLERS, RPN_HEADS
from detlite.testing.contract import IMAGE_SIZE, Case, boxes_near_objects, noise

SEED = 7  # of torch's generator before each call, so that dropout repeats


def device_of(part):
    """Return the device of a module's weights, or the CPU for other parts."""
    weights = list(part.parameters()) if isinstance(part, nn.Module) else []
    return weights[0].device if weights else torch.device("cpu")


def set_mode(part, training):
    """Put a module into training or evaluation mode, and drop its gradients."""
    if isinstance(part, nn.Module):
        part.train(training).zero_grad()


def parameters_of(part):
    """Return a module's (name, parameter) pairs, and none for other parts."""
    return part.named_parameters() if isinstance(part, nn.Module) else []


def features_of_levels(channels, strides, device):
    """Return random features (2, C, h, w) of two images, one tensor per level."""
    levels = []
    for count, stride in zip(channels, strides, strict=True):
        sides = [-(-side // stride) for side in IMAGE_SIZE]
        levels.append(noise(2, count, *sides, device=device).requires_grad_())
    return levels


@allowing_tf32(False)
def check_backbone(backbone: object) -> None:
    """Raise a ContractError unless a part keeps the contract of ``BACKBONES``."""
    # A weight that starts at 0, such as that of a residual block's last BatchNorm, stops the gradients of the block.
    backbone = copy.deepcopy(backbone)
    for name, parameter in parameters_of(backbone):
        if not name.endswith("bias") and not parameter.any():
            nn.init.ones_(parameter)
    for name, buffer in backbone.named_buffers() if isinstance(backbone, nn.Module) else ():
        if name.endswith("weight") and not buffer.any():  # of a frozen BatchNorm
            nn.init.ones_(buffer)

    device = device_of(backbone)
    case = Case(BACKBONES, backbone, "channels and strides")
    case.attributes()
    channels, strides = dict(backbone.channels), dict(backbone.strides)
    case.require(list(channels) == list(strides) and strides, "the same levels in both", (channels, strides))
    case.require(sorted(strides.values()) == list(strides.values()), "coarsest level last", strides)

    # Both sides are multiples of the largest stride, as a detector pads its images.
    unit = max(strides.values())
    height, width = -(-64 // unit) * unit, -(-96 // unit) * unit
    for mode in ("training", "evaluation"):
        # Each level has the channels and the stride that the backbone states.
        set_mode(backbone, mode == "training")
        images = noise(2, 3, height, width, device=device)
        case = Case(BACKBONES, backbone, f"features in {mode}", images=images)
        features = case.checked(seed=SEED)

        # In training BatchNorm may mix the images, in evaluation nothing may.
        if mode == "training":
            case.gradients(sum((level**2).sum() for level in features.values()), parameters_of(backbone))
            continue
        alone = backbone(images[1:])
        for name in strides:
            case.close(features[name][1:], alone[name], f"{name} of an image independent of others in the batch")


@allowing_tf32(False)
def check_rpn_head(head: object, in_channels: int, num_anchors: int) -> None:
    """Raise a ContractError unless a part keeps the contract of ``RPN_HEADS``.

    It is built with ``in_channels`` of every feature level, and ``num_anchors`` per cell (A).
    """
    device = device_of(head)
    set_mode(head, training=True)
    for clause, sizes in (("one level", [(5, 8)]), ("three levels", [(5, 8), (3, 4), (1, 1)])):
        # Two images, and per level an output for each anchor of each cell.
        features = [noise(2, in_channels, h, w, device=device).requires_grad_() for h, w in sizes]
        case = Case(RPN_HEADS, head, clause, features=features)
        case.context = in_channels, num_anchors
        logits, deltas = case.checked(seed=SEED)
        named = [*parameters_of(head), *zip(("level 0", "level 1", "level 2"), features, strict=False)]
        case.gradients(sum((level**2).sum() for level in (*logits, *deltas)), named)
    _check_order(head, noise(1, in_channels, 5, 8, device=device), num_anchors)


def _check_order(head, features, num_anchors):
    """Require that the predictions in a cell's rows depend on the features there."""
    for row, column in ((0, 7), (4, 0), (2, 5)):
        # The cell is a separate tensor, whose gradient shows which predictions depend on it.
        cell = features[0, :, row, column].clone().requires_grad_()
        level = features.clone()
        level[0, :, row, column] = cell
        first = (row * features.shape[-1] + column) * num_anchors
        case = Case(RPN_HEADS, head, "predictions in the anchors' order", features=[level.detach()], cell=(row, column))
        for output in head([level]):
            rows = output[0][0, first : first + num_anchors]
            (gradient,) = torch.autograd.grad(rows.sum(), cell, allow_unused=True, retain_graph=True)
            depends = gradient is not None and bool(gradient.any())
            case.require(depends, f"rows {first} to {first + num_anchors - 1} that depend on the cell", "they do not")


@allowing_tf32(False)
def check_roi_pooler(pooler: object, strides: list[int]) -> None:
    """Raise a ContractError unless a part keeps the contract of ``ROI_POOLERS``.

    It is built with ``strides``: pixels between cells, one number per level.
    """
    device = device_of(pooler)
    set_mode(pooler, training=True)
    Case(ROI_POOLERS, pooler, "its attributes").attributes()

    # Images may lack boxes, and boxes may be tiny or leave the image.
    levels = features_of_levels([6] * len(strides), strides, device)
    boxes, tiny = boxes_near_objects(device, count=9), torch.tensor([[30.0, 30.0, 30.02, 30.02]], device=device)
    for clause, first, second in (
        ("boxes in two images", boxes[:7], boxes[7:]),
        ("no boxes in one image", boxes[:0], boxes),
        ("no boxes", boxes[:0], boxes[:0]),
        ("one box", boxes[:1], boxes[:0]),
        ("a tiny box, and one that leaves the image", tiny, boxes[:1] + 60),
    ):
        case = Case(ROI_POOLERS, pooler, clause, features=levels, boxes=[first, second])
        pooled = case.checked(seed=SEED)

        # Each image's boxes, pooled alone, give the same numbers.
        if len(pooled):
            alone = [pooler([level[:1] for level in levels], [first])]
            alone.append(pooler([level[1:] for level in levels], [second]))
            case.close(pooled, torch.cat(alone), "the boxes image by image, each pooled from its own image")

    # Gradients reach the features, and the parameters if there are any.
    case = Case(ROI_POOLERS, pooler, "gradients", features=levels, boxes=[boxes, boxes[:0]])
    case.run().square().sum().backward()
    reached = any(level.grad is not None and level.grad.any() for level in levels)
    case.require(reached, "a gradient in the features of at least one level", "none")
    case.gradients(case.run().square().sum(), parameters_of(pooler))


@allowing_tf32(False)
def check_box_head(head: object, in_channels: int, resolution: int) -> None:
    """Raise a ContractError unless a part keeps the contract of ``BOX_HEADS``.

    It is built with ``in_channels`` of the pooled features, and ``resolution``: P cells along each side.
    """
    device = device_of(head)
    Case(BOX_HEADS, head, "its attributes").attributes()
    for mode in ("training", "evaluation"):
        set_mode(head, mode == "training")
        for count in (5, 1, 0):
            pooled = noise(count, in_channels, resolution, resolution, device=device).requires_grad_()
            case = Case(BOX_HEADS, head, f"{count} boxes in {mode}", pooled=pooled)
            vectors = case.checked(seed=SEED)
            if mode == "training" and count == 5:
                case.gradients(vectors.square().sum(), [*parameters_of(head), ("pooled", pooled)])
            elif mode == "evaluation" and count:
                case.close(vectors[-1:], head(pooled[-1:]), "a box's vector independent of the other boxes")
