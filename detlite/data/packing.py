"""A batch on its way from a worker.

To receive a tensor from another process takes up to a millisecond, whatever its size. So a worker sends all images as
one tensor, and boxes and labels as arrays.
"""

import math
from typing import NamedTuple

import torch

ARRAYS = ("boxes", "labels")


class PackedBatch(NamedTuple):
    """The parts of a batch."""

    pixels: torch.Tensor  # (P,), all images one after the other
    shapes: list  # (C, H, W) of each image
    targets: list  # dicts, in which ARRAYS are arrays
    messages: list  # about bad images

    def unpack(self):
        """Return images, which are views of one tensor, targets and messages."""
        sizes = [math.prod(shape) for shape in self.shapes]
        images = [pixels.view(shape) for pixels, shape in zip(self.pixels.split(sizes), self.shapes, strict=True)]
        targets = []
        for target in self.targets:
            targets.append(target | {key: torch.from_numpy(target[key]) for key in ARRAYS if key in target})
        return images, targets, self.messages


def pack(images, targets, messages):
    """Join a batch's images, or return the batch unchanged if they have several types."""
    if len({image.dtype for image in images}) != 1:
        return images, targets, messages
    packed = []
    for target in targets:
        packed.append(target | {key: target[key].numpy() for key in ARRAYS if key in target})
    pixels = torch.cat([image.flatten() for image in images])
    return PackedBatch(pixels, [image.shape for image in images], packed, messages)
