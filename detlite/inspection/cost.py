"""What a detector costs: parameters, FLOPs and output shapes of each of its parts."""

import math
from dataclasses import dataclass, field

import torch
from tabulate import tabulate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import tv_tensors

from detlite.agreement import agree_on_classes
from detlite.data import build_dataset, build_transforms
from detlite.errors import UserError
from detlite.modeling import build_model
from detlite.seeding import torch_seeded

ONEDNN = {torch.ops.aten.mkldnn_linear: lambda x, weight, *_, **__: 2 * math.prod(x) * weight[0]}  # from their shapes


@dataclass
class Cost:
    """What one image costs in one part.

    Attributes:
        name: the module's name in the model, such as "rpn.head"; "" is the model.
        part: its class.
        trainable: parameters that train.
        frozen: parameters that do not.
        calls: how often it ran; 0 also where only parts of it did.
        flops: floating-point operations of all calls, a multiplication and an addition counting as two.
        shapes: of its last outputs, (name, shape) each; the name is "" where it gives no dict.
    """

    name: str
    part: str
    trainable: int
    frozen: int
    calls: int = 0
    flops: int = 0
    shapes: list = field(default_factory=list)


def costs(model, image):
    """What one image costs in each part of a detector, in evaluation.

    Convolutions and matrix products count, as ``torch.utils.flop_counter`` has it; pooling, RoIAlign and NMS do not.

    Args:
        model: a detector with torchvision's face.
        image: (3, H, W).

    Returns:
        list of :class:`Cost`: the model, then what it holds in its own order; a composite part before its parts. Parts
        that neither have parameters nor ran are left out.
    """
    found = {}
    for name, module in _parts(model):
        sizes = [[p.numel() for p in module.parameters() if p.requires_grad is trains] for trains in (True, False)]
        found.setdefault(module, Cost(name, type(module).__name__, *map(sum, sizes)))
    counter, begun, handles = FlopCounterMode(display=False, custom_mapping=ONEDNN), [], []

    def before(module, _):
        begun.append(counter.get_total_flops())

    def after(module, _, output):
        cost = found[module]
        cost.calls, cost.shapes = cost.calls + 1, list(_shapes(output))
        cost.flops += counter.get_total_flops() - begun.pop()

    for module in found:
        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    was_training = model.training
    try:
        with torch.no_grad(), counter:
            model.eval()([image])
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return [cost for cost in found.values() if cost.calls or cost.trainable or cost.frozen]


def _parts(module, name=""):
    """(name, module) of a part and of those that it holds, where it is a composite."""
    if not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        yield name, module
        if not hasattr(type(module), "slots"):
            return
    for child_name, child in module.named_children():
        yield from _parts(child, f"{name}.{child_name}".lstrip("."))


def _shapes(output, name=""):
    if isinstance(output, torch.Tensor):
        yield name, tuple(output.shape)
    elif isinstance(output, dict):
        for key, value in output.items():
            yield from _shapes(value, str(key))
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from _shapes(value, name)


def format_cost(cfg, image_size=None):
    """A table of what one image costs in the untrained detector that a config describes.

    Args:
        cfg: what :func:`detlite.config.load_config` returned.
        image_size: (height, width) that the model gets; None takes what TRANSFORMS.TEST make of the median image of
            DATASETS.TEST, or, where that cannot be read, of one of 480 x 640.

    Raises:
        UserError: parts that do not fit each other, or an impossible size.
    """
    notes = []
    try:
        dataset = build_dataset(cfg.DATASETS.TEST)
        cfg = agree_on_classes(cfg, dataset.classes, "DATASETS.TEST")
        sizes = sorted(map(tuple, dataset.sizes.tolist()), key=math.prod)
        median = sizes[len(sizes) // 2] if sizes else (480, 640)
    except UserError as error:
        median = (480, 640)
        notes.append(f"Without DATASETS.TEST ({error}): an image of 480 x 640, {len(cfg.MODEL.CLASSES)} classes.")
    if image_size is None:
        target = {"boxes": tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=median)}
        target["labels"] = torch.zeros(0, dtype=torch.int64)
        image, _ = build_transforms(cfg.TRANSFORMS.TEST)(torch.zeros(3, *median, dtype=torch.uint8), target)
        image = image.as_subclass(torch.Tensor)
    elif min(image_size) < 1:
        raise UserError(f"an image's height and width are at least 1, got {image_size[0]} and {image_size[1]}")
    else:
        image = torch.zeros(3, *image_size, dtype=torch.uint8)
    with torch_seeded(cfg.SEED):
        rows = costs(build_model(cfg), image)
    table = [
        (
            row.name or "the model",
            row.part,
            f"{row.trainable:,}",
            f"{row.frozen:,}",
            row.calls or "",
            f"{row.flops / 1e9:,.3f}" if row.calls else "",
            ", ".join(f"{name} {' x '.join(map(str, shape))}".lstrip() for name, shape in row.shapes),
        )
        for row in rows
    ]
    notes += [
        f"One image of {image.shape[1]} x {image.shape[2]} through the untrained detector in evaluation; RoI heads "
        "cost what the proposals cost that it happens to make.",
        "GFLOPs: of convolutions and matrix products, a multiplication and an addition counting as two.",
    ]
    headers = ("part", "class", "trainable", "frozen", "calls", "GFLOPs", "last output")
    align = ("left", "left", "right", "right", "right", "right", "left")
    return "\n".join([tabulate(table, headers, colalign=align, disable_numparse=True), "", *notes])
