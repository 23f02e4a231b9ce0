"""Images of different sizes as one padded batch, and indices into several images' tensors as one."""

import itertools

import torch

from detlite.ops.cpu import has_cpu_kernel


def batch_images(images, divisor=1, device=None):
    """Stack images into one batch, with zeros to their right and below.

    Args:
        images: list of (C, H_i, W_i) tensors of one dtype.
        divisor: the batch's height and width are multiples of it.
        device: of the batch; None is the first image's. Images in pinned memory are copied without waiting.

    Returns:
        (N, C, H, W) tensor. H and W are the largest height and width, rounded up.

    >>> batch_images([torch.ones(3, 20, 30), torch.ones(3, 25, 10)], divisor=16).shape
    torch.Size([2, 3, 32, 32])
    """
    heights = [image.shape[1] for image in images]
    widths = [image.shape[2] for image in images]
    height = -(-max(heights) // divisor) * divisor
    width = -(-max(widths) // divisor) * divisor

    # Zeros only where some image leaves a gap: filling a batch takes as long as copying the images.
    shape = len(images), images[0].shape[0], height, width
    batch = torch.empty(shape, dtype=images[0].dtype, device=device or images[0].device)
    if min(heights) < height or min(widths) < width:
        batch.zero_()
    for slot, image in zip(batch, images, strict=True):
        slot[:, : image.shape[1], : image.shape[2]].copy_(image, non_blocking=True)
    return batch


def join_indices(indices, starts):
    """Join indices into the tensors of several images to indices into their concatenation.

    Args:
        indices: for each image (S_i,) int64.
        starts: for each image the number that is added to its indices.

    >>> join_indices([torch.tensor([0, 2]), torch.tensor([1])], [0, 10])
    tensor([ 0,  2, 11])
    """
    counts = torch.tensor([len(image_indices) for image_indices in indices])
    offsets = torch.tensor(starts).repeat_interleave(counts)
    return torch.cat(indices) + offsets.to(indices[0].device, non_blocking=True)


def starts_of(tensors):
    """Return where each tensor begins in the concatenation of all: [0, len(first), ...].

    >>> starts_of([torch.zeros(3), torch.zeros(2)])
    [0, 3]
    """
    return [0, *itertools.accumulate(map(len, tensors))][:-1]


def call_on_images(function, counts, *tensors):
    """Call a function of rows once for all images, or on the CPU image by image, where that costs nothing.

    On the CPU, the last bits of vectorized functions depend on a row's distance to the end of the tensor. So an image's
    numbers do not depend on the other images.

    Args:
        function: called with tensors of equally many rows; returns a tensor of as many rows.
        counts: rows of each image; their sum is the number of rows of each tensor.
        tensors: the arguments.
    """
    if not has_cpu_kernel(tensors[0]):
        return function(*tensors)
    parts = [tensor.split(counts) for tensor in tensors]
    return torch.cat([function(*image) for image in zip(*parts, strict=True)])
