"""The cost of a detector: parameters, FLOPs and output shapes of each part."""

import math
from dataclasses import dataclass, field

import torch
from tabulate import tabulate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import tv_tensors

from detlite.agreement import agree_on_classes
from detlite.data import build_dataset, build_test_transforms
from detlite.errors import UserError
from detlite.modeling import build_model
from detlite.seeding import torch_seeded
from detlite.solver import build_optimizer

ONEDNN = {torch.ops.aten.mkldnn_linear: lambda x, weight, *_, **__: 2 * math.prod(x) * weight[0]}  # from their shapes
DEFAULT_SIZE = (480, 640)  # of an image, without test data


@dataclass
class Cost:
    """The cost of one image in one part."""

    name: str  # of the module in the model, such as "rpn.head"; "" is the model
    part: str  # its class
    trainable: int = 0  # trained parameters
    frozen: int = 0  # other parameters
    calls: int = 0  # forward passes; 0 also where only some of its parts ran
    flops: int = 0  # floating-point operations of all calls; a multiplication and an addition count as two
    shapes: list = field(default_factory=list)  # (name, shape) per tensor of the last output; "" outside a dict


def costs(model, image):
    """Measure the cost of one image (3, H, W) in each part of a detector, in evaluation mode.

    ``torch.utils.flop_counter`` counts convolutions and matrix products, but not pooling, RoIAlign or NMS.

    Returns:
        list of :class:`Cost`: the model, then its parts in the model's order, a composite before its parts. A part
        without parameters that did not run is left out.
    """
    # A module that several parts share counts once.
    found = {}
    for name, module in _parts(model):
        if module not in found:
            cost = found[module] = Cost(name, type(module).__name__)
            for parameter in module.parameters():
                if parameter.requires_grad:
                    cost.trainable += parameter.numel()
                else:
                    cost.frozen += parameter.numel()

    # Calls nest, so the counts at their begin are a stack.
    counter = FlopCounterMode(display=False, custom_mapping=ONEDNN)
    begun = []

    def before(module, _):
        begun.append(counter.get_total_flops())

    def after(module, _, output):
        cost = found[module]
        cost.calls += 1
        cost.shapes = list(_shapes(output))
        cost.flops += counter.get_total_flops() - begun.pop()

    handles = []
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
    """Yield (name, module) of a part, and of the parts inside it if it is a composite."""
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
    """Format the cost of one image in the untrained detector of a config as a table.

    Args:
        cfg: what :func:`detlite.config.load_config` returned.
        image_size: (height, width) of the model's input; None takes the median image of DATASETS.TEST, transformed by
            TRANSFORMS.TEST, or an image of 480 x 640 if the data cannot be read.

    Raises:
        UserError: parts that do not fit each other, or an impossible size.
    """
    # The median size and the classes of the test data, if they can be read.
    notes = []
    median = DEFAULT_SIZE
    try:
        dataset = build_dataset(cfg.DATASETS.TEST)
        cfg = agree_on_classes(cfg, dataset.classes, "DATASETS.TEST")
        sizes = sorted(map(tuple, dataset.sizes.tolist()), key=math.prod)
        if sizes:
            median = sizes[len(sizes) // 2]
    except UserError as error:
        notes.append(f"Without DATASETS.TEST ({error}): an image of 480 x 640, {len(cfg.MODEL.CLASSES)} classes.")

    if image_size is None:
        image = _transformed(cfg, median)
    elif min(image_size) < 1:
        raise UserError(f"an image's height and width are at least 1, got {image_size[0]} and {image_size[1]}")
    else:
        image = torch.zeros(3, *image_size, dtype=torch.uint8)
    with torch_seeded(cfg.SEED):
        model = build_model(cfg)
        found = costs(model, image)

    # One row per part; a part that did not run as a whole has no calls and no FLOPs.
    rows = []
    for cost in found:
        gflops = f"{cost.flops / 1e9:,.3f}" if cost.calls else ""
        outputs = [f"{name} {' x '.join(map(str, shape))}".lstrip() for name, shape in cost.shapes]
        parameters = f"{cost.trainable:,}", f"{cost.frozen:,}"
        rows.append((cost.name or "the model", cost.part, *parameters, cost.calls or "", gflops, ", ".join(outputs)))
    headers = ("part", "class", "trainable", "frozen", "calls", "GFLOPs", "last output")
    align = ("left", "left", "right", "right", "right", "right", "left")
    notes += [
        f"One image of {image.shape[1]} x {image.shape[2]} through the untrained detector in evaluation mode. The cost "
        "of the RoI heads depends on the number of proposals, which is random here.",
        "GFLOPs of convolutions and matrix products; a multiplication and an addition count as two.",
    ]
    table = tabulate(rows, headers, colalign=align, disable_numparse=True)
    return "\n".join([table, "", _format_groups(cfg, model), "", *notes])


def _format_groups(cfg, model):
    """Format the optimizer's groups of trained parameters as a table."""
    try:
        optimizer = build_optimizer(cfg, model)
    except UserError as error:
        return f"No optimizer: {error}."
    rows = []
    for number, group in enumerate(optimizer.param_groups):
        count = sum(parameter.numel() for parameter in group["params"])
        rows.append((group.get("name", number), f"{count:,}", f"{group['lr']:g}", f"{group.get('weight_decay', 0):g}"))
    headers = ("trained group", "parameters", "learning rate", "weight decay")
    return tabulate(rows, headers, colalign=("left", "right", "right", "right"), disable_numparse=True)


def _transformed(cfg, size):
    """Return a black image of a size, transformed by TRANSFORMS.TEST."""
    target = {
        "boxes": tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=size),
        "labels": torch.zeros(0, dtype=torch.int64),
    }
    image, _ = build_test_transforms(cfg.TRANSFORMS.TEST)(torch.zeros(3, *size, dtype=torch.uint8), target)
    return image.as_subclass(torch.Tensor)
