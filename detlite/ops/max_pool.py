"""VGG's convolutions and max-poolings, with less memory and time on the CPU."""

import math

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from detlite.ops.cpu import has_cpu_kernel

LARGEST_BAND = 2**24  # approximate number of output values per band of rows, see conv_max_pool


def run_layers(layers, images):
    """Run VGG's layers on (N, C, H, W): equal to ``nn.Sequential(*layers)(images)``.

    The layers are 3 x 3 convolutions, each with an optional BatchNorm and a ReLU, and max-poolings by 2.
    """
    stage = []  # the layers since the last pooling
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d) and not torch.compiler.is_compiling():
            images = conv_max_pool(stage, images) if stage else max_pool(images)
            stage = []
        else:
            stage.append(layer)
    for layer in stage:
        images = layer(images)
    return images


def conv_max_pool(layers, images):
    """Run convolutions, then max-pool by 2.

    Equal to ``F.max_pool2d(nn.Sequential(*layers)(images), 2)``. The last layer, a ReLU, runs after the pooling, which
    gives the same result with a quarter of the values. On the CPU without gradients, large feature maps are computed in
    bands of rows, which need less memory than the whole map.
    """
    *layers, relu = layers

    # Each band has an even number of rows, so that no pooling window is split.
    height, width = images.shape[2:]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    num_bands = 1
    if _may_split(layers, images):
        num_bands += len(images) * convolutions[-1].out_channels * height * width // LARGEST_BAND
    step = 2 * math.ceil(height / 2 / num_bands)

    # Each 3 x 3 convolution reads one row above and one row below its output.
    halo = len(convolutions)
    bands = []
    for top in range(0, height, step):
        first, bottom = max(0, top - halo), min(height, top + step)
        rows = images[:, :, first : bottom + halo]
        for layer in layers:
            rows = layer(rows)
        bands.append(relu(max_pool(rows[:, :, top - first : bottom - first], overwrite=True)))
        del rows  # the next band takes its memory
    return torch.cat(bands, dim=2) if len(bands) > 1 else bands[0]


def _may_split(layers, images):
    """Check that rows may be computed in bands: on the CPU, without gradients, without BatchNorm in training mode."""
    needs_gradient = images.requires_grad
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d) and layer.training:
            return False
        needs_gradient |= any(weight.requires_grad for weight in layer.parameters())
    return has_cpu_kernel(images) and not (needs_gradient and torch.is_grad_enabled())


def max_pool(images, overwrite=False):
    """Max-pool (N, C, H, W) by 2: equal to ``F.max_pool2d(images, 2)``.

    On the CPU, store 3 bits per output for the backward pass instead of the input and 8-byte indices. With
    ``overwrite``, the images may be overwritten if they need no gradient.
    """
    if not has_cpu_kernel(images):
        return F.max_pool2d(images, 2)
    if images.requires_grad:
        return _MaxPool.apply(images)

    # Take the maximum of each pair of rows, in place if allowed, and then of each pair of columns.
    height, width = _even_size(images.shape)
    upper, lower = images[:, :, 0:height:2], images[:, :, 1:height:2]
    rows = torch.maximum(upper, lower, out=upper if overwrite else None)
    return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])


def _even_size(shape):
    """Return the height and width of (N, C, H, W), without an odd last row or column."""
    return shape[2] // 2 * 2, shape[3] // 2 * 2


class _MaxPool(torch.autograd.Function):
    """Max-pooling by 2 that stores three bits per output."""

    @staticmethod
    def forward(context, images):
        """Max-pool by 2: (N, C, H, W) -> (N, C, H // 2, W // 2)."""
        height, width = _even_size(images.shape)
        # Slice the four cells of each window, (N, C, H // 2, W // 2) each.
        upper, lower = images[:, :, 0:height:2], images[:, :, 1:height:2]
        upper_left, upper_right = upper[..., 0:width:2], upper[..., 1:width:2]
        lower_left, lower_right = lower[..., 0:width:2], lower[..., 1:width:2]
        upper_max, lower_max = torch.maximum(upper_left, upper_right), torch.maximum(lower_left, lower_right)
        context.save_for_backward(upper_right > upper_left, lower_right > lower_left, lower_max > upper_max)
        context.shape = images.shape
        return torch.maximum(upper_max, lower_max, out=upper_max)

    @staticmethod
    @once_differentiable
    def backward(context, gradient):
        """Return the gradient of the inputs from the gradient of the outputs."""
        is_upper_right, is_lower_right, is_lower = context.saved_tensors
        result = torch.empty(
            context.shape, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last
        )
        height, width = _even_size(context.shape)
        result[:, :, height:] = 0  # an odd last row or column is in no window
        result[..., width:] = 0

        # Each output's gradient goes to one row of its window, and in that row to one of two columns. If inputs are
        # equal, the first one receives the gradient, as in torch.
        lower = gradient * is_lower
        for row, row_gradient, is_right in ((0, gradient - lower, is_upper_right), (1, lower, is_lower_right)):
            rows = result[:, :, row:height:2]
            right = torch.mul(row_gradient, is_right, out=rows[..., 1:width:2])
            torch.sub(row_gradient, right, out=rows[..., 0:width:2])
        return result
