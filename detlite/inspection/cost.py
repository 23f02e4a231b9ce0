"""The cost of a detector: parameters, FLOPs and output shapes of each part."""

from dataclasses import dataclass, field

import torch
from tabulate import tabulate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from detlite.modeling import build_model
from detlite.seeding import torch_seeded
from detlite.solver import build_optimizer


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

    ``torch.utils.flop_counter`` counts convolutions and matrix products, but not pooling, RoIAlign or NMS. Returns a
    list of :class:`Cost`: the model, then its parts in the model's order, a composite before its parts. A part without
    parameters that did not run is left out.
    """
    # A module that several parts share counts once.
    found = {}
    for name, module in _parts(model):
        if module not in found:
            trainable = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
            frozen = sum(parameter.numel() for parameter in module.parameters()) - trainable
            found[module] = Cost(name, type(module).__name__, trainable, frozen)

    # Calls nest, so the counts at their begin are a stack.
    counter = FlopCounterMode(display=False)
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
        with torch.enable_grad(), counter:  # the faster operators for inference would be counted differently
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


def format_cost(cfg, image_size=(600, 800)):
    """Format the cost of one image of (height, width) in the untrained detector of a config as a table."""
    with torch_seeded(cfg.SEED):
        model = build_model(cfg)
        found = costs(model, torch.zeros(3, *image_size, dtype=torch.uint8))

    # One row per part; a part that did not run as a whole has no calls and no FLOPs.
    rows = []
    for cost in found:
        gflops = f"{cost.flops / 1e9:,.3f}" if cost.calls else ""
        outputs = [f"{name} {' x '.join(map(str, shape))}".lstrip() for name, shape in cost.shapes]
        parameters = f"{cost.trainable:,}", f"{cost.frozen:,}"
        rows.append((cost.name or "the model", cost.part, *parameters, cost.calls or "", gflops, ", ".join(outputs)))
    headers = ("part", "class", "trainable", "frozen", "calls", "GFLOPs", "last output")
    align = ("left", "left", "right", "right", "right", "right", "left")
    table = tabulate(rows, headers, colalign=align, disable_numparse=True)
    notes = (
        "One image of {} x {} through the untrained detector of {} classes in evaluation mode. The cost of the RoI "
        "heads depends on the number of proposals, which is random here.\nGFLOPs of convolutions and matrix products; "
        "a multiplication and an addition count as two."
    ).format(*image_size, len(cfg.MODEL.CLASSES))
    return f"{table}\n\n{_format_groups(cfg, model)}\n\n{notes}"


def _format_groups(cfg, model):
    """Format the optimizer's groups of trained parameters as a table."""
    rows = []
    for number, group in enumerate(build_optimizer(cfg, model).param_groups):
        count = sum(parameter.numel() for parameter in group["params"])
        rows.append((group.get("name", number), f"{count:,}", f"{group['lr']:g}", f"{group.get('weight_decay', 0):g}"))
    headers = ("trained group", "parameters", "learning rate", "weight decay")
    return tabulate(rows, headers, colalign=("left", "right", "right", "right"), disable_numparse=True)
