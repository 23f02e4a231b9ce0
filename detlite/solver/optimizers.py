"""Optimizers with separate settings for weights, biases and norms."""

import itertools
import math

import torch
from torch import nn

from detlite.errors import UserError, require
from detlite.parameters import parameters_within
from detlite.registry import OPTIMIZERS

NORM_LAYERS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@OPTIMIZERS.register()
def SGD(
    model,
    *,
    lr: float = 0.001,
    momentum: float = 0.9,
    weight_decay: float = 0.0005,
    bias_lr_factor: float = 2.0,
    bias_decay_factor: float = 1.0,
    norm_decay_factor: float = 0.0,
    groups: list[list[str | float]] = (),
):
    """Stochastic gradient descent with momentum and py-faster-rcnn's defaults.

    Args:
        lr: learning rate.
        momentum: fraction of the previous update that is added to the current one.
        weight_decay: multiple of each weight that is added to its gradient.
        bias_lr_factor: learning rate of biases relative to lr (lr_mult in Caffe).
        bias_decay_factor: weight decay of biases relative to weight_decay (decay_mult in Caffe; PyTorch ports: 0).
        norm_decay_factor: weight decay of weight and bias of normalization layers relative to weight_decay.
        groups: factors by the beginning of parameters' names, a list of [prefix, learning-rate factor, decay factor],
            such as [[backbone, 0.1, 1], [roi_heads.box_head, 1, 0]]; the longest prefix of a parameter counts.
    """
    require(0 <= momentum < 1, "momentum must be at least 0 and below 1", momentum)
    groups = parameter_groups(model, lr, weight_decay, bias_decay_factor, norm_decay_factor, bias_lr_factor, groups)
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=_can_fuse(groups) or None)
    if momentum:
        optimizer.register_step_pre_hook(_begin_momentum)
    return optimizer


def _begin_momentum(optimizer, args, kwargs):
    """Begin the momentum of parameters at 0. torch's fused step fails if only some parameters are at their first."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and not optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter.grad)


@OPTIMIZERS.register()
def AdamW(
    model,
    *,
    lr: float = 0.0001,
    beta1: float = 0.9,
    beta2: float = 0.999,
    weight_decay: float = 0.05,
    bias_decay_factor: float = 0.0,
    norm_decay_factor: float = 0.0,
    groups: list[list[str | float]] = (),
):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Args:
        lr: learning rate.
        beta1: decay of the running mean of gradients.
        beta2: decay of the running mean of squared gradients.
        weight_decay: fraction of each weight, times lr, that each step subtracts.
        bias_decay_factor: weight decay of biases relative to weight_decay.
        norm_decay_factor: weight decay of weight and bias of normalization layers relative to weight_decay.
        groups: factors by the beginning of parameters' names, a list of [prefix, learning-rate factor, decay factor],
            such as [[backbone, 0.1, 1], [roi_heads.box_head, 1, 0]]; the longest prefix of a parameter counts.
    """
    require(0 <= beta1 < 1 and 0 <= beta2 < 1, "beta1 and beta2 must be at least 0 and below 1", beta1, beta2)
    groups = parameter_groups(model, lr, weight_decay, bias_decay_factor, norm_decay_factor, groups=groups)
    return torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), fused=_can_fuse(groups) or None)


def parameter_groups(model, lr, weight_decay, bias_decay_factor, norm_decay_factor, bias_lr_factor=1.0, groups=()):
    """Return a model's trainable parameters as groups for an optimizer. See :func:`SGD` for the arguments.

    A group is {"name", "params", "lr", "weight_decay", "initial_lr"}. Each parameter is in one of the groups "weights",
    "biases" and "norms", once, even if layers share it. Weight and bias of a normalization layer both count as "norms"
    and learn at ``lr``. Further groups are "weights of PREFIX" and so on. Empty groups are left out.
    """
    # The error names the argument.
    numbers = {
        "lr": lr,
        "weight_decay": weight_decay,
        "bias_decay_factor": bias_decay_factor,
        "norm_decay_factor": norm_decay_factor,
        "bias_lr_factor": bias_lr_factor,
    }
    for name, number in numbers.items():
        require(0 <= number < math.inf, f"{name} must be finite and at least 0", number)

    # The order of the keys is part of checkpoints.
    weights, biases, norms = _trainable_parameters(model)
    kinds = [
        ("weights", weights, lr, weight_decay),
        ("biases", biases, lr * bias_lr_factor, weight_decay * bias_decay_factor),
        ("norms", norms, lr, weight_decay * norm_decay_factor),
    ]
    prefixes = _prefixes(model, groups)
    result = []
    for prefix, lr_factor, decay_factor in (("", 1.0, 1.0), *groups):
        for kind, params, kind_lr, kind_decay in kinds:
            chosen = [parameter for parameter in params if prefixes.get(parameter, "") == prefix]
            rates = {"lr": kind_lr * lr_factor, "weight_decay": kind_decay * decay_factor}
            if chosen:
                name = f"{kind} of {prefix}" if prefix else kind
                result.append({"name": name, "params": chosen, **rates, "initial_lr": rates["lr"]})
    if not result:
        raise UserError("the model has no trainable parameter: all of it is frozen")
    return result


def _prefixes(model, groups):
    """Check GROUPS, and return the longest prefix of each parameter that has one: {parameter: prefix}."""
    for entry in groups:
        is_entry = len(entry) == 3 and isinstance(entry[0], str) and not any(isinstance(n, str) for n in entry[1:])
        if not is_entry or not all(0 <= factor < math.inf for factor in entry[1:]):
            raise ValueError(f"groups: expected [prefix, learning-rate factor, decay factor], got {list(entry)}")
    prefixes = sorted((entry[0] for entry in groups), key=len)
    require(len(set(prefixes)) == len(prefixes), "groups: expected different prefixes", ", ".join(prefixes))
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found, owner = {}, "groups: the trained part of the model"
    for prefix in prefixes:
        found |= dict.fromkeys(parameters_within(trained, prefix, owner).values(), prefix)
    return found


def _trainable_parameters(model):
    """Return lists of a model's weights, biases, and weights and biases of norms."""
    weights, biases, norms = [], [], []
    for name, parameter in model.named_parameters():  # each once, even if layers share it
        if not parameter.requires_grad:
            continue
        if isinstance(model.get_submodule(name.rpartition(".")[0]), NORM_LAYERS):
            norms.append(parameter)
        elif name.endswith("bias"):
            biases.append(parameter)
        else:
            weights.append(parameter)
    return weights, biases, norms


def _can_fuse(groups):
    """Check whether torch has one kernel for the whole step, by type and device."""
    parameters = itertools.chain.from_iterable(group["params"] for group in groups)
    return all(value.is_floating_point() and value.device.type in ("cpu", "cuda") for value in parameters)
