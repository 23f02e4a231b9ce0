"""A batch on its way from a worker.

To receive a tensor from another process takes up to a millisecond, whatever its size. So a worker sends all images as
one tensor, and boxes and labels as bytes.
"""

from typing import NamedTuple

import numpy as np
import torch


class PackedBatch(NamedTuple):
    """The parts of a batch, joined."""

    pixels: torch.Tensor  # (P,), all images one after the other
    shapes: list  # (C, H, W) of each image
    boxes: np.ndarray  # (M, 4), float32, of all images
    labels: np.ndarray  # (M,), int64
    counts: list  # objects of each image
    targets: list  # dicts of each image's further values
    messages: list  # about bad images

    def unpack(self):
        """Return images, targets and messages.

        Images are views of one tensor. Boxes and labels are copies: a kept target keeps no other image's boxes alive.
        """
        sizes = [shape.numel() for shape in self.shapes]
        images = [pixels.view(shape) for pixels, shape in zip(self.pixels.split(sizes), self.shapes, strict=True)]
        boxes = torch.from_numpy(self.boxes).split(self.counts)
        labels = torch.from_numpy(self.labels).split(self.counts)
        targets = []
        for image_boxes, image_labels, others in zip(boxes, labels, self.targets, strict=True):
            targets.append({"boxes": image_boxes.clone(), "labels": image_labels.clone(), **others})
        return images, targets, self.messages


def pack(images, targets, messages):
    """Join a batch's tensors, or return the batch as it came if that would change a tensor's type.

    Args:
        images: list of (C, H, W) tensors.
        targets: list of dicts, with boxes (M, 4) and labels (M,).
        messages: list of strings.
    """
    boxes = [target.get("boxes") for target in targets]
    labels = [target.get("labels") for target in targets]
    one_type = len({image.dtype for image in images}) == 1
    if not (one_type and _are(boxes, torch.float32, [4]) and _are(labels, torch.int64, [])):
        return images, targets, messages

    others = []
    for target in targets:
        others.append({key: value for key, value in target.items() if key not in ("boxes", "labels")})
    return PackedBatch(
        torch.cat([image.flatten() for image in images]),
        [image.shape for image in images],
        torch.cat(boxes).numpy(),
        torch.cat(labels).numpy(),
        [len(image_boxes) for image_boxes in boxes],
        others,
        messages,
    )


def _are(values, dtype, shape):
    """Return whether all values are plain tensors of a dtype, and of a shape after the first dimension."""
    for value in values:
        if type(value) is not torch.Tensor or value.dtype != dtype or list(value.shape[1:]) != shape:
            return False
    return True
