"""Numbers that say early whether a training can succeed: gathered from the model, averaged over steps."""

import resource
import sys

import torch


def collect_statistics(model):
    """What the modules of a model say about their last training pass, as pairs of floats.

    A module may have an attribute ``statistics``, {name: (sum, count)}, of numbers or detached scalar tensors. The
    second and later modules that use a name get a number behind it.

    >>> model = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
    >>> model[0].statistics = model[1].statistics = {"foreground": (torch.tensor(12), 2)}
    >>> collect_statistics(model)
    {'foreground': (12.0, 2.0), 'foreground_2': (12.0, 2.0)}
    """
    numbers, uses = {}, {}
    for module in model.modules():
        for name, (value, count) in getattr(module, "statistics", {}).items():
            uses[name] = uses.get(name, 0) + 1
            name = name if uses[name] == 1 else f"{name}_{uses[name]}"
            numbers |= {(name, "sum"): value, (name, "count"): count}
    numbers = to_floats(numbers)
    return {name: (value, numbers[name, "count"]) for (name, which), value in numbers.items() if which == "sum"}


def to_floats(values):
    """Numbers and scalar tensors by name, as floats by name; all tensors are fetched from their device at once.

    >>> to_floats({"a": 2, "b": torch.tensor(0.5)})
    {'a': 2.0, 'b': 0.5}
    """
    tensors = {name: value.detach().float() for name, value in values.items() if isinstance(value, torch.Tensor)}
    numbers = torch.stack(list(tensors.values())).tolist() if tensors else []
    return {name: float(value) for name, value in (values | dict(zip(tensors, numbers, strict=True))).items()}


def add_pairs(sums, pairs):
    """Add {name: (sum, count)} to such a dict, in place."""
    for name, (value, count) in pairs.items():
        old = sums.get(name, (0.0, 0.0))
        sums[name] = (old[0] + value, old[1] + count)


def means_of(sums):
    """{name: sum / count} of {name: (sum, count)}; None where the count is 0."""
    return {name: value / count if count else None for name, (value, count) in sums.items()}


def peak_memory(device):
    """{"memory_mb"}: the most that this process has held, and {"gpu_memory_mb"}, tensors on an NVIDIA or AMD GPU."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    values = {"memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6}
    if device.type == "cuda":
        values["gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    return values
