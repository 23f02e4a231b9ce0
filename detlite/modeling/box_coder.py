"""Box coders: the numbers that describe a box relative to another."""

import math

import torch
from torchvision.ops import box_convert

from detlite.errors import require
from detlite.registry import BOX_CODERS

MAX_LOG_RATIO = math.log(1000 / 16)  # decoded sides grow at most this much, so exp() of an untrained output is finite


class _WeightedBoxCoder:
    """A box coder of four deltas, each with a factor.

    Args:
        weights: factors on the four deltas; 10 and 5 divide them by standard deviations of 0.1 and 0.2.
    """

    def __init__(self, *, weights: list[float] = (1.0, 1.0, 1.0, 1.0)):
        fits = len(weights) == 4 and all(0 < weight < math.inf for weight in weights)
        require(fits, "weights are four numbers above 0", list(weights))
        self.weights = tuple(weights)
        self._weights = torch.tensor(self.weights, dtype=torch.float64, device="cpu")

    def weights_like(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the weights (4,) with a tensor's type and device, without waiting for the device."""
        return self._weights.to(tensor.device, tensor.dtype, non_blocking=True)


@BOX_CODERS.register()
class DeltaBoxCoder(_WeightedBoxCoder):
    """Center offsets and logarithms of size ratios (Girshick et al. 2014, app. C)."""

    def encode(self, boxes: torch.Tensor, gt_boxes: torch.Tensor) -> torch.Tensor:
        """Return deltas (dx, dy, dw, dh) from boxes, sides above 0, to objects: (R, 4).

        >>> DeltaBoxCoder().encode(torch.tensor([[0., 0., 10., 20.]]), torch.tensor([[5., 0., 15., 20.]]))
        tensor([[0.5000, 0.0000, 0.0000, 0.0000]])
        """
        centers, sizes = box_convert(boxes, "xyxy", "cxcywh").split(2, dim=1)
        gt_centers, gt_sizes = box_convert(gt_boxes, "xyxy", "cxcywh").split(2, dim=1)
        deltas = torch.cat([(gt_centers - centers) / sizes, torch.log(gt_sizes / sizes)], dim=1)
        return deltas * self.weights_like(deltas)

    def decode(self, boxes: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
        """Return the unclipped boxes that deltas of boxes describe, all (R, 4).

        >>> DeltaBoxCoder().decode(torch.tensor([[0., 0., 10., 20.]]), torch.tensor([[0.5, 0., 0., 0.]]))
        tensor([[ 5.,  0., 15., 20.]])
        """
        centers, sizes = box_convert(boxes, "xyxy", "cxcywh").split(2, dim=1)
        deltas = deltas / self.weights_like(deltas)
        centers = centers + deltas[:, :2] * sizes
        half_sizes = sizes * torch.exp(deltas[:, 2:].clamp(max=MAX_LOG_RATIO)) / 2
        return torch.cat([centers - half_sizes, centers + half_sizes], dim=1)


@BOX_CODERS.register()
class LTRBBoxCoder(_WeightedBoxCoder):
    """Outward distances of the four sides, in the box's widths and heights.

    The distances (left, top, right, bottom) are from Tian et al. 2019 (FCOS), but measured from the box's sides instead
    of its center, so that 0 leaves the box unchanged.
    """

    def encode(self, boxes, gt_boxes):
        """Return the deltas from boxes, sides above 0, to objects, all (R, 4).

        >>> LTRBBoxCoder().encode(torch.tensor([[0., 0., 10., 20.]]), torch.tensor([[-5., 2., 12., 30.]]))
        tensor([[ 0.5000, -0.1000,  0.2000,  0.5000]])
        """
        sizes = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)  # [R, (w, h, w, h)]
        return outward((gt_boxes - boxes) / sizes * self.weights_like(boxes))

    def decode(self, boxes, deltas):
        """Return the boxes that deltas of boxes describe, all (R, 4)."""
        sizes = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        moved = boxes + outward(deltas / self.weights_like(deltas)) * sizes

        # Sides that would cross meet halfway.
        low, high = moved[:, :2], moved[:, 2:]
        middle = (low + high) / 2
        return torch.cat([torch.minimum(low, middle), torch.maximum(high, middle)], dim=1)


def outward(distances):
    """Change the sign of the distances to the left and the top, in (R, 4)."""
    return torch.cat([-distances[:, :2], distances[:, 2:]], dim=1)
