"""Max-pooling of convolutions' outputs, on a CPU with less memory and time than layer by layer."""

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from detlite.ops.cpu import has_cpu_kernel

LARGEST_BAND = 2**24  # numbers of a convolution's output that are computed at once, where no gradient is needed


def conv_max_pool(layers, images):
    """A stage of VGG: convolutions with ReLU, then max-pooling by 2.

    The last ReLU comes after the pooling: the same on a quarter of the numbers. On a CPU, where no gradient is needed,
    large feature maps are computed in bands of rows, so that they never exist as a whole.

    Args:
        layers: the stage's, in order; after a feature level only nn.MaxPool2d.
        images: (N, C, H, W).

    Returns:
        (N, D, H // 2, W // 2).
    """
    *inner, pooling = layers
    if not inner:
        return pool(pooling, images, overwrite=False)
    *inner, relu = inner

    def run(rows, above=0, below=0):
        for layer in inner:
            rows = layer(rows)
        return relu(pool(pooling, rows[:, :, above : rows.shape[2] - below], overwrite=True))

    convolutions = [layer for layer in inner if isinstance(layer, nn.Conv2d)]
    needs_gradient = torch.is_grad_enabled() and (
        images.requires_grad or any(weight.requires_grad for layer in inner for weight in layer.parameters())
    )
    has_statistics = any(isinstance(layer, nn.BatchNorm2d) and layer.training for layer in inner)
    if not has_cpu_kernel(images) or needs_gradient or has_statistics:
        return run(images)
    height = images.shape[2]
    numbers = len(images) * convolutions[-1].out_channels * height * images.shape[3]
    step = max(2, height // (numbers // LARGEST_BAND + 1) // 2 * 2)
    halo = len(convolutions)  # rows beyond a band that 3 x 3 convolutions see
    bands = []
    for top in range(0, height, step):
        bottom = min(height, top + step)
        first, last = max(0, top - halo), min(height, bottom + halo)
        bands.append(run(images[:, :, first:last], top - first, last - bottom))
    return torch.cat(bands, dim=2)


def pool(layer, images, overwrite):
    """Max-pooling by 2, on a CPU without what torch keeps for the gradient: the input, and 8 bytes for each output.

    Args:
        layer: nn.MaxPool2d of 2 x 2 cells.
        images: (N, C, H, W).
        overwrite: whether ``images`` may be changed.

    Returns:
        (N, C, H // 2, W // 2).
    """
    if not has_cpu_kernel(images):
        return layer(images)
    if images.requires_grad:
        return _MaxPool.apply(images)
    height, width = (side // 2 * 2 for side in images.shape[2:])
    upper, lower = images[:, :, 0:height:2], images[:, :, 1:height:2]
    rows = torch.maximum(upper, lower, out=upper if overwrite else None)
    return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])


class _MaxPool(torch.autograd.Function):
    """Max-pooling by 2 that keeps three bits of each output; of equal inputs the first gets the gradient, as ever."""

    @staticmethod
    def forward(context, images):
        """(N, C, H, W) -> (N, C, H // 2, W // 2)."""
        height, width = (side // 2 * 2 for side in images.shape[2:])
        a, b, c, d = (images[:, :, row:height:2, column:width:2] for row in (0, 1) for column in (0, 1))
        upper, lower = torch.maximum(a, b), torch.maximum(c, d)
        context.save_for_backward(b > a, d > c, lower > upper)
        context.shape = images.shape
        return torch.maximum(upper, lower, out=upper)

    @staticmethod
    @once_differentiable
    def backward(context, gradient):
        """The gradient of the inputs from that of the outputs."""
        is_upper_right, is_lower_right, is_lower = context.saved_tensors
        inputs = torch.empty(
            context.shape, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last
        )
        height, width = (side // 2 * 2 for side in context.shape[2:])
        inputs[:, :, height:] = 0
        inputs[..., width:] = 0
        lower = gradient * is_lower
        for row, part, is_right in ((0, gradient - lower, is_upper_right), (1, lower, is_lower_right)):
            rows = inputs[:, :, row:height:2]
            right = torch.mul(part, is_right, out=rows[..., 1:width:2])
            torch.sub(part, right, out=rows[..., 0:width:2])
        return inputs
