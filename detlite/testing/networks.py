"""Checks of the parts that a detector's stages are made of: backbones, poolers and heads."""

import torch
from torch import nn

from detlite.registry import BACKBONES, BOX_HEADS, ROI_POOLERS, RPN_HEADS
from detlite.seeding import torch_seeded
from detlite.testing.contract import IMAGE_SIZE, Case, boxes_near_objects, noise


def device_of(part):
    """Where a module's weights are; modules are checked there, other parts on the CPU."""
    return next((p.device for p in part.parameters()), torch.device("cpu")) if isinstance(part, nn.Module) else "cpu"


def set_mode(part, training):
    """Put a module into training or evaluation, without gradients of earlier cases."""
    if isinstance(part, nn.Module):
        part.train(training).zero_grad()


def parameters_of(part):
    """(name, parameter) pairs, none of a part that is no module."""
    return part.named_parameters() if isinstance(part, nn.Module) else []


def run_seeded(case, function=None):
    """Run a case after torch.manual_seed, so that dropout and the like must repeat."""
    with torch_seeded(7):
        return case.run(function)


def check_backbone(backbone):
    """Whether a backbone keeps the contract of ``BACKBONES``.

    Raises:
        ContractError: it does not.
    """
    device = device_of(backbone)
    case = Case(BACKBONES, backbone, "channels and strides")
    case.attributes()
    channels, strides = dict(backbone.channels), dict(backbone.strides)
    case.require(list(channels) == list(strides) and strides, "the same levels in both", (channels, strides))
    case.require(sorted(strides.values()) == list(strides.values()), "coarsest level last", strides)
    unit = max(strides.values())
    height, width = (unit * -(-side // unit) for side in (64, 96))
    for training in (True, False):
        set_mode(backbone, training)
        images = noise(2, 3, height, width, device=device)
        case = Case(BACKBONES, backbone, f"features in {'training' if training else 'evaluation'}", images=images)
        features = run_seeded(case)
        case.require(isinstance(features, dict), "a dict", features)
        case.require(list(features) == list(strides), f"the levels {', '.join(strides)}, in this order", list(features))
        for name, stride in strides.items():
            case.tensor(name, features[name], (2, channels[name], height // stride, width // stride), device=device)
        case.repeats(dict(features), dict(run_seeded(case)))
        if training:
            case.gradients(sum((level**2).sum() for level in features.values()), parameters_of(backbone))
        else:
            alone = backbone(images[1:])
            for name in strides:
                case.close(features[name][1:], alone[name], f"{name} of an image whatever others are in the batch")


def check_rpn_head(head, in_channels, num_anchors):
    """Whether an RPN head keeps the contract of ``RPN_HEADS``.

    Args:
        head: built with these numbers.
        in_channels: of every feature level.
        num_anchors: A, of a cell.

    Raises:
        ContractError: it does not.
    """
    device = device_of(head)
    set_mode(head, training=True)
    for clause, sizes in (("one level", [(5, 8)]), ("three levels", [(5, 8), (3, 4), (1, 1)])):
        features = [noise(2, in_channels, h, w, device=device).requires_grad_() for h, w in sizes]
        case = Case(RPN_HEADS, head, clause, features=features)
        logits, deltas = case.items(run_seeded(case), ["logits", "deltas"])
        names = [f"level {number}" for number in range(len(sizes))]
        case.items(logits, names)
        case.items(deltas, names)
        for name, (h, w), level_logits, level_deltas in zip(names, sizes, logits, deltas, strict=True):
            columns = level_logits.shape[-1] if isinstance(level_logits, torch.Tensor) and level_logits.dim() else 0
            case.require(columns in (1, 2), f"logits of {name} with 1 or 2 columns", level_logits)
            case.tensor(f"logits of {name}", level_logits, (2, h * w * num_anchors, columns), device=device)
            case.tensor(f"deltas of {name}", level_deltas, (2, h * w * num_anchors, 4), device=device)
        case.repeats((list(logits), list(deltas)), tuple(map(list, run_seeded(case))))
        named = [*parameters_of(head), *zip(names, features, strict=True)]
        case.gradients(sum((level**2).sum() for level in (*logits, *deltas)), named)
    features = noise(1, in_channels, 5, 8, device=device)
    for row, column in ((0, 7), (4, 0), (2, 5)):
        cell = features[0, :, row, column].clone().requires_grad_()
        level = features.clone()
        level[0, :, row, column] = cell
        first = (row * 8 + column) * num_anchors
        case = Case(RPN_HEADS, head, "predictions in the anchors' order", features=[level.detach()], cell=(row, column))
        for output in head([level]):
            rows = output[0][0, first : first + num_anchors]
            (gradient,) = torch.autograd.grad(rows.sum(), cell, allow_unused=True, retain_graph=True)
            moved = gradient is not None and bool(gradient.any())
            case.require(moved, f"rows {first} to {first + num_anchors - 1} to depend on the cell", "they do not")


def check_roi_pooler(pooler, strides):
    """Whether a pooler keeps the contract of ``ROI_POOLERS``.

    Args:
        pooler: built with these strides.
        strides: of the feature levels.

    Raises:
        ContractError: it does not.
    """
    device = device_of(pooler)
    set_mode(pooler, training=True)
    Case(ROI_POOLERS, pooler, "its attributes").attributes()
    size, channels = pooler.resolution, 6
    levels = [
        noise(2, channels, *(-(-side // stride) for side in IMAGE_SIZE), device=device).requires_grad_()
        for stride in strides
    ]
    boxes, tiny = boxes_near_objects(device, count=9), torch.tensor([[30.0, 30.0, 30.02, 30.02]], device=device)
    for clause, first, second in (
        ("boxes in two images", boxes[:7], boxes[7:]),
        ("no boxes in one image", boxes[:0], boxes),
        ("no boxes", boxes[:0], boxes[:0]),
        ("one box", boxes[:1], boxes[:0]),
        ("a tiny box, and one that leaves the image", tiny, boxes[:1] + 60),
    ):
        case = Case(ROI_POOLERS, pooler, clause, features=levels, boxes=[first, second])
        count = len(first) + len(second)
        pooled = case.tensor("pooled", run_seeded(case), (count, channels, size, size), device=device)
        case.repeats(pooled, run_seeded(case))
        if not count:
            continue
        alone = [pooler([level[n : n + 1] for level in levels], [own]) for n, own in enumerate((first, second))]
        case.close(pooled, torch.cat(alone), "images' boxes one after the other, each from its own image")
    set_mode(pooler, training=True)
    case = Case(ROI_POOLERS, pooler, "gradients", features=levels, boxes=[boxes, boxes[:0]])
    case.run().square().sum().backward()
    case.require(any(level.grad is not None and level.grad.any() for level in levels), "some in the features", "none")
    case.gradients(case.run().square().sum(), parameters_of(pooler))


def check_box_head(head, in_channels, resolution):
    """Whether a box head keeps the contract of ``BOX_HEADS``.

    Args:
        head: built with these numbers.
        in_channels: of the pooled features.
        resolution: P, cells along each side of a pooled box.

    Raises:
        ContractError: it does not.
    """
    device = device_of(head)
    Case(BOX_HEADS, head, "its attributes").attributes()
    for training in (True, False):
        set_mode(head, training)
        for count in (5, 1, 0):
            pooled = noise(count, in_channels, resolution, resolution, device=device).requires_grad_()
            clause = f"{count or 'no'} boxes in {'training' if training else 'evaluation'}"
            case = Case(BOX_HEADS, head, clause, pooled=pooled)
            vectors = case.tensor("vectors", run_seeded(case), (count, head.out_features), device=device)
            case.repeats(vectors, run_seeded(case))
            if training and count == 5:
                case.gradients(vectors.square().sum(), [*parameters_of(head), ("pooled", pooled)])
            elif count and not training:
                case.close(vectors[-1:], head(pooled[-1:]), "a box's vector whatever the other boxes are")
