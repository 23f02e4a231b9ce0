"""VGG's convolutions and max-poolings, on the CPU in less memory and time."""

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from detlite.ops.cpu import has_cpu_kernel

LARGEST_BAND = 2**24  # numbers of a convolution's output that are computed at once, where no gradient is needed


def run_layers(layers, images):
    """Run VGG's layers on (N, C, H, W): equal to ``nn.Sequential(*layers)(images)``.

    The layers are 3 x 3 convolutions, each with an optional BatchNorm and a ReLU, and max-poolings by 2.
    """
    stage = []  # the layers since the last pooling
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            images = conv_max_pool(stage, images) if stage else max_pool(images)
            stage = []
        else:
            stage.append(layer)
    for layer in stage:
        images = layer(images)
    return images


def conv_max_pool(layers, images):
    """Run convolutions, then max-pool by 2.

    Equal to ``F.max_pool2d(nn.Sequential(*layers)(images), 2)``. The last layer, a ReLU, runs after the pooling: the
    same result from a quarter of the numbers. On the CPU, where no gradient is needed, large feature maps are computed
    in bands of rows, so that they never exist as a whole.
    """
    *layers, relu = layers

    def run(first, last, top, bottom):
        """Pool rows ``top`` to ``bottom``, computed from the rows ``first`` to ``last``."""
        rows = images[:, :, first:last]
        for layer in layers:
            rows = layer(rows)
        return relu(max_pool(rows[:, :, top - first : bottom - first], overwrite=True))

    # With a gradient, or off the CPU: all rows at once.
    height, width = images.shape[2:]
    if not _may_split(layers, images):
        return run(0, height, 0, height)

    # Bands of an even number of rows, so that no pooling window is in two.
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    numbers = len(images) * convolutions[-1].out_channels * height * width
    step = max(2, height // (numbers // LARGEST_BAND + 1) // 2 * 2)

    # Each 3 x 3 convolution reads one row beyond its output, above and below.
    halo = len(convolutions)
    bands = []
    for top in range(0, height, step):
        bottom = min(height, top + step)
        bands.append(run(max(0, top - halo), min(height, bottom + halo), top, bottom))
    return torch.cat(bands, dim=2)


def _may_split(layers, images):
    """Check that bands are possible: CPU, no gradient, no statistics over all rows."""
    needs_gradient = images.requires_grad
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d) and layer.training:
            return False
        needs_gradient |= any(weight.requires_grad for weight in layer.parameters())
    return has_cpu_kernel(images) and not (needs_gradient and torch.is_grad_enabled())


def max_pool(images, overwrite=False):
    """Max-pool (N, C, H, W) by 2: equal to ``F.max_pool2d(images, 2)``.

    On the CPU, store 3 bits per output for the backward pass instead of the input and 8-byte indices. With
    ``overwrite``, images that need no gradient may be changed.
    """
    if not has_cpu_kernel(images):
        return F.max_pool2d(images, 2)
    if images.requires_grad:
        return _MaxPool.apply(images)

    # First the larger of two rows, in place if possible, then the larger of two columns.
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
        # The four cells of each window.
        upper, lower = images[:, :, 0:height:2], images[:, :, 1:height:2]
        upper_left, upper_right = upper[..., 0:width:2], upper[..., 1:width:2]
        lower_left, lower_right = lower[..., 0:width:2], lower[..., 1:width:2]
        upper, lower = torch.maximum(upper_left, upper_right), torch.maximum(lower_left, lower_right)
        context.save_for_backward(upper_right > upper_left, lower_right > lower_left, lower > upper)
        context.shape = images.shape
        return torch.maximum(upper, lower, out=upper)

    @staticmethod
    @once_differentiable
    def backward(context, gradient):
        """Return the gradient of the inputs from the gradient of the outputs."""
        is_upper_right, is_lower_right, is_lower = context.saved_tensors
        inputs = torch.empty(
            context.shape, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last
        )
        height, width = _even_size(context.shape)
        inputs[:, :, height:] = 0
        inputs[..., width:] = 0

        # Each output's gradient goes to one row of its window, and in that row to one of two columns. Of equal inputs
        # the first gets it, as in torch.
        lower = gradient * is_lower
        for row, part, is_right in ((0, gradient - lower, is_upper_right), (1, lower, is_lower_right)):
            rows = inputs[:, :, row:height:2]
            right = torch.mul(part, is_right, out=rows[..., 1:width:2])
            torch.sub(part, right, out=rows[..., 0:width:2])
        return inputs
