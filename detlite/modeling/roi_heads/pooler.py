"""Features of a fixed size for boxes of any size."""

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
            raise ValueError(f"{type(self).__name__} pools from one feature level, got {len(strides)}")
        if resolution < 1:
            raise ValueError(f"resolution must be at least 1, got {resolution}")
        self.resolution = resolution
        self.scale = 1 / strides[0]


@ROI_POOLERS.register()
class RoIPool(_SingleLevelPooler):
    """Max-pooling over the cells of each box, borders rounded to whole cells (Girshick 2015, section 2.1)."""

    def forward(self, features, boxes):
        """[(N, C, h, w)] and [(R_i, 4)] -> (S, C, P, P)."""
        return roi_pool(features[0], list(boxes), self.resolution, self.scale)


@ROI_POOLERS.register()
class RoIAlign(_SingleLevelPooler):
    """Bilinear samples averaged in each bin, nothing rounded (He et al. 2017, section 3).

    Args:
        sampling_ratio: samples along each side of a bin; 0 takes as many as the bin has feature cells.
        aligned: whether cell centres are at half-integer positions, as they are; False is torchvision's detectors' way.
    """

    def __init__(self, strides, *, sampling_ratio: int = 2, aligned: bool = True, **kwargs):
        super().__init__(strides, **kwargs)
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, features, boxes):
        """[(N, C, h, w)] and [(R_i, 4)] -> (S, C, P, P)."""
        ratio = self.sampling_ratio or -1
        return roi_align(features[0], list(boxes), self.resolution, self.scale, ratio, self.aligned)
