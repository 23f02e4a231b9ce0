"""Features of a fixed size for boxes of any size."""

import math

import torch
from torch import Tensor, nn

from detlite.errors import require
from detlite.ops.roi_pooling import roi_align, roi_pool
from detlite.parts import Slot
from detlite.registry import ROI_POOLERS
from detlite.signature import constructor_arguments


class _SingleLevelPooler(nn.Module):
    """A pooler that reads one feature level.

    Args:
        resolution: cells of the output along each side, P.
    """

    def __init__(self, strides: list[int], *, resolution: int = 7):
        super().__init__()
        if len(strides) != 1:
            pools = f"{type(self).__name__} pools from one feature level, got {len(strides)}"
            raise ValueError(f"{pools}; MultiLevelPooler takes several")
        require(1 <= resolution <= 256, "resolution must be from 1 to 256", resolution)
        self.resolution = resolution
        self.scale = 1 / strides[0]


@ROI_POOLERS.register()
class RoIPool(_SingleLevelPooler):
    """Max-pooling in bins of whole cells, borders rounded (Girshick 2015, 2.1)."""

    def forward(self, features: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """Pool boxes [(R_i, 4)] from features [(N, C, h, w)]: (S, C, P, P)."""
        # Under autocast the features are coarser than the boxes, whose digits are needed.
        level = features[0].to(boxes[0].dtype)
        return roi_pool(level, boxes, self.resolution, self.scale)


@ROI_POOLERS.register()
class RoIAlign(_SingleLevelPooler):
    """Bilinear samples averaged in bins, nothing rounded (He et al. 2017, section 3).

    Args:
        sampling_ratio: samples along each side of a bin; 0 takes as many as the bin has feature cells.
        aligned: whether the centers of cells are at half-integer positions; false as in torchvision's detectors.
    """

    def __init__(self, strides: list[int], *, sampling_ratio: int = 2, aligned: bool = True, **kwargs: object):
        super().__init__(strides, **kwargs)
        require(0 <= sampling_ratio <= 64, "sampling_ratio must be from 0 to 64", sampling_ratio)
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, features: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """Pool boxes [(R_i, 4)] from features [(N, C, h, w)]: (S, C, P, P)."""
        ratio = self.sampling_ratio or -1
        return roi_align(features[0], boxes, self.resolution, self.scale, ratio, self.aligned)


@ROI_POOLERS.register()
class MultiLevelPooler(nn.Module):
    """Pool each box from the level that fits its size (Lin et al. 2017, equation 1).

    Args:
        canonical_size: square root of the area of boxes pooled from the level of stride canonical_stride.
        canonical_stride: stride of that level; a box half as large is pooled from one level finer.
        max_stride: maximum stride of the levels pooled from.
    """

    slots = {"POOLER": Slot(ROI_POOLERS, "RoIAlign")}

    def __init__(
        self,
        strides,
        poolers,
        *,
        canonical_size: float = 224.0,
        canonical_stride: float = 16.0,
        max_stride: float = 32.0,
    ):
        super().__init__()
        fits = 0 < canonical_size < math.inf and 0 < canonical_stride < math.inf
        require(fits, "canonical_size and canonical_stride are numbers above 0", canonical_size, canonical_stride)
        self.poolers = nn.ModuleList(poolers)
        self.resolution = poolers[0].resolution
        self.strides = torch.tensor([float(stride) for stride in strides if stride <= max_stride])
        if not len(self.strides):
            raise ValueError(f"max_stride is {max_stride}, but the levels' strides are {list(strides)}")
        self.canonical_size = canonical_size
        self.canonical_stride = canonical_stride

    @classmethod
    def from_config(cls, node, strides):
        """Build the pooler that a config node describes, with one POOLER per level."""
        poolers = [ROI_POOLERS.build(node.POOLER, [stride]) for stride in strides]
        return cls(strides, poolers, **constructor_arguments(cls, node))

    def forward(self, features, boxes):
        """Pool boxes [(R_i, 4)] from features [(N, C, h, w)]: (S, C, P, P)."""
        if isinstance(boxes, torch.Tensor):
            return self.pool_from_all(features, boxes)

        # Index 0 is the finest level.
        levels = [self.levels_of(image_boxes) for image_boxes in boxes]
        all_levels = torch.cat(levels)  # [S]
        pooled = features[0].new_zeros((len(all_levels), features[0].shape[1], self.resolution, self.resolution))

        # Pool the boxes of one level, then copy them to their places in the order of all boxes.
        for level in range(len(self.strides)):
            level_boxes = []
            for image_boxes, image_levels in zip(boxes, levels, strict=True):
                level_boxes.append(image_boxes[image_levels == level])
            index = (all_levels == level).nonzero().flatten()
            pooled = pooled.index_copy(0, index, self.poolers[level]([features[level]], level_boxes).to(pooled.dtype))
        return pooled

    def pool_from_all(self, features, rois):
        """Pool rois (S, 5) from every level, then choose one level for each.

        No size depends on the data, as an exported graph requires.
        """
        levels = self.levels_of(rois[:, 1:])[:, None, None, None]
        pooled = self.poolers[0](features[:1], rois)
        for level in range(1, len(self.strides)):
            pooled = torch.where(levels == level, self.poolers[level]([features[level]], rois), pooled)
        return pooled

    def levels_of(self, boxes):
        """Return the level that each box is pooled from: (R, 4) -> (R,) int64, 0 finest."""
        # A level fits if its stride is at most the wanted one, which is proportional to the box's size.
        sizes = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1).sqrt()
        wanted = self.canonical_stride * sizes / self.canonical_size
        strides = self.strides.to(boxes.device)
        # The largest such stride wins; of levels with equal strides the first, as in torchvision.
        return ((wanted[:, None] * (1 + 1e-6) >= strides) * strides).argmax(dim=1)
