"""Joining the tensors of several images: pixels, boxes, and indices of boxes."""

import itertools

import torch
from torch.nn.utils.rnn import pad_sequence

from detlite.ops.cpu import has_cpu_kernel


def batch_images(images, divisor=1, device=None):
    """Stack images into one batch (N, C, H, W), with zeros to their right and below.

    Args:
        images: list of (C, H_i, W_i) tensors of one dtype.
        divisor: H and W are the largest height and width, rounded up to multiples of it.
        device: of the batch; None is the first image's. Images in pinned memory are copied without waiting.

    >>> batch_images([torch.ones(3, 20, 30), torch.ones(3, 25, 10)], divisor=16).shape
    torch.Size([2, 3, 32, 32])
    """
    heights = [image.shape[1] for image in images]
    widths = [image.shape[2] for image in images]
    height = -(-max(heights) // divisor) * divisor
    width = -(-max(widths) // divisor) * divisor

    # If all images fill the batch, save the time of writing zeros: it is as long as copying the images.
    shape = len(images), images[0].shape[0], height, width
    batch = torch.empty(shape, dtype=images[0].dtype, device=device or images[0].device)
    if min(heights) < height or min(widths) < width:
        batch.zero_()
    for index, image in enumerate(images):  # autograd refuses writes into the views of an iterated batch
        batch[index, :, : image.shape[1], : image.shape[2]].copy_(image, non_blocking=True)
    return batch


def pad_boxes(boxes):
    """Stack the boxes [(R_i, 4)] of all images: boxes (N, R, 4), zeros for padding, and is_box (N, R) bool.

    >>> pad_boxes([torch.ones(1, 4), torch.ones(2, 4)])[1]
    tensor([[ True, False],
            [ True,  True]])
    """
    padded = pad_sequence(boxes, batch_first=True)
    counts = torch.tensor([len(image_boxes) for image_boxes in boxes])
    is_box = torch.arange(padded.shape[1]) < counts[:, None]
    return padded, is_box.to(padded.device, non_blocking=True)


def join_indices(indices, starts):
    """Add each image's start to its indices [(S_i,)], and join them: (S,).

    With the starts of :func:`starts_of`, the results are indices into the images' concatenated tensors.

    >>> join_indices([torch.tensor([0, 2]), torch.tensor([1])], [0, 10])
    tensor([ 0,  2, 11])
    """
    counts = torch.tensor([len(image_indices) for image_indices in indices])
    offsets = torch.tensor(starts).repeat_interleave(counts)
    return torch.cat(indices) + offsets.to(indices[0].device, non_blocking=True)


def starts_of(tensors):
    """Return the index at which each tensor begins in the concatenation of all.

    >>> starts_of([torch.zeros(3), torch.zeros(2)])
    [0, 3]
    """
    return [0, *itertools.accumulate(map(len, tensors))][:-1]


def call_on_images(function, counts, *tensors):
    """Call a function that computes each row separately: on a GPU once, on the CPU image by image.

    On the CPU, the last bits of a row's result may depend on its distance to the end of the tensor. If images were
    computed together, an image's result would depend on the other images.

    ``tensors`` are the function's arguments, with the rows of all images, and ``counts`` the numbers of rows of each.
    """
    if not has_cpu_kernel(tensors[0]):
        return function(*tensors)
    parts = [tensor.split(counts) for tensor in tensors]
    return torch.cat([function(*image) for image in zip(*parts, strict=True)])
