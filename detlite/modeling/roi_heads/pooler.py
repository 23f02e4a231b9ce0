"""Features of a fixed size for boxes of any size."""

import torch
from torch import nn
from torchvision.ops import roi_align, roi_pool

from detlite.ops.cpu import has_cpu_kernel
from detlite.ops.roi_pooling import roi_align_cpu, roi_pool_cpu
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
        if isinstance(boxes, list) and has_cpu_kernel(level) and not level.requires_grad:
            pooled = roi_pool_cpu(level, boxes, self.resolution, self.scale)
            if pooled is not None:
                return pooled
        return roi_pool(level, as_rois(boxes), self.resolution, self.scale)


def as_rois(boxes):
    """Boxes as torchvision's operators take them: a list of (R_i, 4), or, in an exported graph, one (S, 5) tensor."""
    return boxes if isinstance(boxes, torch.Tensor) else list(boxes)


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
        level, boxes = features[0], as_rois(boxes)
        if isinstance(boxes, list) and has_cpu_kernel(level) and self.sampling_ratio:
            return roi_align_cpu(level, boxes, self.resolution, self.scale, self.sampling_ratio, self.aligned)
        return roi_align(level, boxes, self.resolution, self.scale, self.sampling_ratio or -1, self.aligned)
