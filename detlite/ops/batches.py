"""Images of different sizes as one padded batch."""

import torch


def batch_images(images, divisor=1):
    """Stack images into one batch, with zeros to their right and below.

    Args:
        images: list of (C, H_i, W_i) tensors of one dtype and device.
        divisor: the batch's height and width are multiples of it.

    Returns:
        (N, C, H, W) tensor, channels last in memory. H and W are the largest height and width, rounded up.

    >>> batch_images([torch.ones(3, 20, 30), torch.ones(3, 25, 10)], divisor=16).shape
    torch.Size([2, 3, 32, 32])
    """
    heights = [image.shape[1] for image in images]
    widths = [image.shape[2] for image in images]
    height = -(-max(heights) // divisor) * divisor
    width = -(-max(widths) // divisor) * divisor

    # Zeros only where some image leaves a gap: filling a batch takes as long as copying the images.
    shape = len(images), images[0].shape[0], height, width
    batch = torch.empty(shape, dtype=images[0].dtype, device=images[0].device, memory_format=torch.channels_last)
    if min(heights) < height or min(widths) < width:
        batch.zero_()
    for slot, image in zip(batch, images, strict=True):
        slot[:, : image.shape[1], : image.shape[2]] = image
    return batch
