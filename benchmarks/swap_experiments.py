"""A pooler for an experiment of docs/swaps.md: RoIPool's rounding without its maximum.

detlite compare --config-file detlite:quickstart --import benchmarks/swap_experiments.py --seeds 0 1 2 \
    --variants benchmarks/swap_experiments.yaml
"""

import torch

from detlite.modeling.roi_heads.pooler import RoIAlign
from detlite.registry import ROI_POOLERS


@ROI_POOLERS.register()
class RoundedRoIAlign(RoIAlign):
    """RoIAlign of the whole cells that RoIPool reads: borders are rounded, the border cells belong to the box."""

    def forward(self, features, boxes):
        """Pool boxes [(R_i, 4)] from features [(N, C, h, w)]: (S, C, P, P)."""
        rounded = []
        for image_boxes in boxes:
            first, last = (image_boxes * self.scale).round().split(2, dim=1)
            end = torch.maximum(last, first) + 1
            rounded.append(torch.cat([first, end], dim=1) / self.scale)
        return super().forward(features, rounded)
