"""Losses and statistics of a training: collected from the model, and averaged over steps for the log."""

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten


def collect_statistics(model):
    """Collect the statistics that a model's modules keep of their last training pass: {name: (sum, count)}.

    A module may have an attribute ``statistics`` with such a dict, of numbers or detached scalar tensors. If several
    modules use a name, it gets a number from the second module on.

    >>> model = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
    >>> model[0].statistics = model[1].statistics = {"foreground": (torch.tensor(12), 2)}
    >>> collect_statistics(model)
    {'foreground': (tensor(12), 2), 'foreground_2': (tensor(12), 2)}
    """
    pairs = []
    for module in model.modules():
        pairs += getattr(module, "statistics", {}).items()
    return numbered(pairs)


def numbered(pairs):
    """Return a dict of (name, value) pairs. A name that occurs again gets a number, such as name_2."""
    result, uses = {}, {}
    for name, value in pairs:
        uses[name] = uses.get(name, 0) + 1
        result[name if uses[name] == 1 else f"{name}_{uses[name]}"] = value
    return result


def to_floats(values):
    """Convert scalar tensors in nested dicts, lists and tuples to floats. They come from their device in one transfer.

    >>> to_floats([{"a": 2, "b": torch.tensor(0.5)}, {"c": (torch.tensor(3), 4)}])
    [{'a': 2.0, 'b': 0.5}, {'c': (3.0, 4.0)}]
    """
    leaves, structure = tree_flatten(values)
    tensors = [leaf.detach().float() for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if tensors:
        device = tensors[0].device
        fetched = iter(torch.stack([tensor.to(device) for tensor in tensors]).tolist())
        leaves = [next(fetched) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    return tree_unflatten([float(leaf) for leaf in leaves], structure)


def add_pairs(sums, pairs):
    """Add the pairs of {name: (sum, count)} to the dict ``sums``, in place."""
    for name, (value, count) in pairs.items():
        old = sums.get(name, (0.0, 0.0))
        sums[name] = (old[0] + value, old[1] + count)


def means_of(sums):
    """Return {name: sum / count} for {name: (sum, count)}; None if the count is 0."""
    return {name: value / count if count else None for name, (value, count) in sums.items()}
