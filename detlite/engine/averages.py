"""Numbers that show early whether a training can succeed: collected from the model, averaged over steps."""

import torch

from detlite.memory import peak_memory


def collect_statistics(model):
    """Collect the statistics that a model's modules keep of their last training pass, as pairs of floats.

    A module may have an attribute ``statistics``, {name: (sum, count)}, of numbers or detached scalar tensors. If
    several modules use a name, the second and later ones get a number appended.

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

    # One transfer from the device for all of them.
    numbers = to_floats(numbers)
    return {name: (value, numbers[name, "count"]) for (name, which), value in numbers.items() if which == "sum"}


def to_floats(values):
    """Convert numbers and scalar tensors to floats. All tensors come from their device in one transfer.

    >>> to_floats({"a": 2, "b": torch.tensor(0.5)})
    {'a': 2.0, 'b': 0.5}
    """
    tensors = {name: value.detach().float() for name, value in values.items() if isinstance(value, torch.Tensor)}
    numbers = torch.stack(list(tensors.values())).tolist() if tensors else []
    values = values | dict(zip(tensors, numbers, strict=True))
    return {name: float(value) for name, value in values.items()}


def add_pairs(sums, pairs):
    """Add the pairs of {name: (sum, count)} to the dict ``sums``, in place."""
    for name, (value, count) in pairs.items():
        old = sums.get(name, (0.0, 0.0))
        sums[name] = (old[0] + value, old[1] + count)


def means_of(sums):
    """Return {name: sum / count} for {name: (sum, count)}; None if the count is 0."""
    return {name: value / count if count else None for name, (value, count) in sums.items()}


def peak_megabytes(device):
    """Return {"memory_mb": this process's peak} and, on CUDA, "gpu_memory_mb", the peak of its tensors there."""
    values = {"memory_mb": peak_memory() / 1e6}
    if device.type == "cuda":
        values["gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    return values
