"""Features of a fixed size for boxes of any size."""

import torch
from torch import nn
from torchvision.ops import roi_align, roi_pool

from detlite.registry import ROI_POOLERS


class _SingleLevelPooler(nn.Module):
    """A pooler that reads one feature level.

    Args:
        resolution: cells of the output along each side.
    """

    def __init__(self, strides, *, resolution: int = 7):
        super().__init__()
        if len(strides) != 1:
            raise ValueError(
                f"{type(self).__name__} pools from one feature level, got {len(strides)}; "
                "MultiLevelPooler takes several"
            )
        if resolution < 1:
            raise ValueError(f"resolution must be at least 1, got {resolution}")
        self.resolution = resolution
        self.scale = 1 / strides[0]


@ROI_POOLERS.register()
class RoIPool(_SingleLevelPooler):
    """Max-pooling over the cells of each box, borders rounded to whole cells (Girshick 2015, section 2.1)."""

    def forward(self, features, boxes):
        """[(N, C, h, w)] and [(R_i, 4)] -> (S, C, P, P)."""
        level = features[0].to(boxes[0].dtype)  # under autocast they differ, and boxes need their digits
        return roi_pool(level, list(boxes), self.resolution, self.scale)


@ROI_POOLERS.register()
class RoIAlign(_SingleLevelPooler):
    """Bilinear samples averaged in each bin, nothing rounded (He et al. 2017, section 3).

    Args:
        sampling_ratio: samples along each side of a bin; 0 takes as many as the bin has feature cells.
        aligned: whether cell centres are at half-integer positions, as they are; False is torchvision's detectors' way.
    """

    def __init__(self, strides, *, sampling_ratio: int = 2, aligned: bool = True, **kwargs):
        super().__init__(strides, **kwargs)
        if sampling_ratio < 0:
            raise ValueError(f"sampling_ratio must be at least 0, got {sampling_ratio}")
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, features, boxes):
        """[(N, C, h, w)] and [(R_i, 4)] -> (S, C, P, P)."""
        level, boxes = features[0], list(boxes)
        if level.requires_grad and level.device.type == "cpu" and self.sampling_ratio:
            return align_by_products(level, boxes, self.resolution, self.scale, self.sampling_ratio, self.aligned)
        return roi_align(level, boxes, self.resolution, self.scale, self.sampling_ratio or -1, self.aligned)


@torch.autocast("cpu", enabled=False)
def align_by_products(features, boxes, resolution, scale, sampling_ratio, aligned):
    """RoIAlign as matrix products, for training on a CPU, where the backward pass of torchvision's kernel is slow.

    Bilinear interpolation and the mean over a bin's samples are both separable, so pooling a region is
    (P, h) @ (h, w) @ (w, P) in every channel. Equal to ``torchvision.ops.roi_align`` up to rounding, and like it
    computed in float32.

    Args:
        features: (N, C, h, w).
        boxes: for each image (R_i, 4), in pixels.
        resolution: P.
        scale: feature cells in a pixel.
        sampling_ratio: samples along each side of a bin, at least 1.
        aligned: see :class:`RoIAlign`.

    Returns:
        (S, C, P, P).
    """
    pooled = []
    height, width = features.shape[2:]
    precise = features.to(boxes[0].dtype)
    for level, image_boxes in zip(precise.permute(0, 2, 3, 1), boxes, strict=True):  # [h, w, C]
        x1, y1, x2, y2 = (image_boxes * scale).unbind(dim=1)
        y_weights = bin_weights(y1, y2, height, resolution, sampling_ratio, aligned)
        x_weights = bin_weights(x1, x2, width, resolution, sampling_ratio, aligned)
        rows = y_weights.flatten(0, 1) @ level.flatten(1)  # [R * P, w * C]
        rows = rows.view(len(image_boxes), resolution, width, level.shape[2])  # [R, P, w, C]
        pooled.append(x_weights[:, None] @ rows)  # [R, P, P, C]
    return torch.cat(pooled).permute(0, 3, 1, 2).to(features.dtype)


def bin_weights(low, high, size, resolution, sampling_ratio, aligned):
    """How much each feature cell along one axis counts in each bin of each region.

    Args:
        low, high: (R,) borders of the regions, in cells.
        size: cells along the axis.
        resolution: bins in a region.
        sampling_ratio: samples in a bin.
        aligned: see :class:`RoIAlign`.

    Returns:
        (R, resolution, size).
    """
    length = high - low if aligned else (high - low).clamp(min=1)
    samples = resolution * sampling_ratio
    steps = (torch.arange(samples, dtype=low.dtype, device=low.device) + 0.5) / samples
    positions = (low - 0.5 if aligned else low)[:, None] + steps * length[:, None]  # [R, P * samples]
    inside = (positions >= -1) & (positions <= size)  # as in torchvision, samples further out count as 0
    cells = torch.arange(size, device=low.device)
    weights = (1 - (positions.clamp(0, size - 1)[..., None] - cells).abs()).clamp(min=0) * inside[..., None]
    return weights.view(len(low), resolution, sampling_ratio, size).mean(dim=2)
