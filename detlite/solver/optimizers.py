"""torch's optimizers with a learning rate and weight decay for each kind of parameter."""

import math

import torch
from torch import nn

from detlite.errors import UserError
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
):
    """Stochastic gradient descent with momentum; the defaults are those of py-faster-rcnn.

    Args:
        lr: learning rate.
        momentum: part of the last step that is taken again.
        weight_decay: factor of the weights that is added to their gradient.
        bias_lr_factor: learning rate of biases relative to lr (lr_mult in Caffe).
        bias_decay_factor: weight decay of biases relative to weight_decay (decay_mult in Caffe; the ports have 0).
        norm_decay_factor: weight decay of weight and bias of normalization layers relative to weight_decay.

    Returns:
        torch.optim.SGD over the trainable parameters of ``model``.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be at least 0 and below 1, got {momentum}")
    groups = parameter_groups(
        model,
        lr=lr,
        weight_decay=weight_decay,
        bias_lr_factor=bias_lr_factor,
        bias_decay_factor=bias_decay_factor,
        norm_decay_factor=norm_decay_factor,
    )
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=_can_fuse(groups) or None)


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
):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Args:
        lr: learning rate.
        beta1: decay of the running mean of gradients.
        beta2: decay of the running mean of squared gradients.
        weight_decay: share of the weights, times lr, that each step takes away.
        bias_decay_factor: weight decay of biases relative to weight_decay.
        norm_decay_factor: weight decay of weight and bias of normalization layers relative to weight_decay.

    Returns:
        torch.optim.AdamW over the trainable parameters of ``model``.
    """
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        raise ValueError(f"beta1 and beta2 must be at least 0 and below 1, got {beta1} and {beta2}")
    groups = parameter_groups(
        model,
        lr=lr,
        weight_decay=weight_decay,
        bias_lr_factor=1.0,
        bias_decay_factor=bias_decay_factor,
        norm_decay_factor=norm_decay_factor,
    )
    return torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), fused=_can_fuse(groups) or None)


def parameter_groups(model, *, lr, weight_decay, bias_lr_factor, bias_decay_factor, norm_decay_factor):
    """The trainable parameters of a model as an optimizer's groups "weights", "biases" and "norms".

    Each parameter is in exactly one group, once, even if layers share it. Groups that would be empty are left out.
    Weight and bias of a normalization layer both count as "norms" and learn at ``lr``.

    Args:
        model: torch.nn.Module; parameters with requires_grad False are left out.
        lr: learning rate of weights and norms.
        weight_decay: weight decay of weights.
        bias_lr_factor: learning rate of biases relative to ``lr``.
        bias_decay_factor: weight decay of biases relative to ``weight_decay``.
        norm_decay_factor: weight decay of norms relative to ``weight_decay``.

    Returns:
        list of {"name", "params", "lr", "initial_lr", "weight_decay"}.

    Raises:
        UserError: no parameter is trainable.
        ValueError: a number is negative or not finite.

    >>> groups = parameter_groups(nn.Linear(2, 3), lr=0.5, weight_decay=0.25, bias_lr_factor=2.0,
    ...                           bias_decay_factor=0.0, norm_decay_factor=0.0)
    >>> [(group["name"], group["lr"], group["weight_decay"]) for group in groups]
    [('weights', 0.5, 0.25), ('biases', 1.0, 0.0)]
    """
    numbers = {
        "lr": lr,
        "weight_decay": weight_decay,
        "bias_lr_factor": bias_lr_factor,
        "bias_decay_factor": bias_decay_factor,
        "norm_decay_factor": norm_decay_factor,
    }
    for name, number in numbers.items():
        if not 0 <= number < math.inf:
            raise ValueError(f"{name} must be a number from 0 on, got {number}")
    groups = [
        {"name": "weights", "params": [], "lr": lr, "weight_decay": weight_decay},
        {"name": "biases", "params": [], "lr": lr * bias_lr_factor, "weight_decay": weight_decay * bias_decay_factor},
        {"name": "norms", "params": [], "lr": lr, "weight_decay": weight_decay * norm_decay_factor},
    ]
    weights, biases, norms = (group["params"] for group in groups)
    seen = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            if isinstance(module, NORM_LAYERS):
                norms.append(parameter)
            else:
                (biases if name.endswith("bias") else weights).append(parameter)
    if not seen:
        raise UserError("the model has no trainable parameter: all of it is frozen")
    return [group | {"initial_lr": group["lr"]} for group in groups if group["params"]]


def _can_fuse(groups):
    """Whether torch has one kernel for the whole step: floating-point parameters on a CPU or an NVIDIA or AMD GPU."""
    parameters = (parameter for group in groups for parameter in group["params"])
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
