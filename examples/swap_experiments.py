"""Poolers for the experiments of docs/swaps.md: RoIPool's boxes without its maximum, with and without rounding.

detlite compare --config-file detlite:quickstart --import examples/swap_experiments.py --seeds 0 1 2 \
    --variants examples/swap_experiments.yaml MODEL.PRECISION bf16
"""

import torch

from detlite.modeling.roi_heads.pooler import RoIAlign
from detlite.registry import ROI_POOLERS


@ROI_POOLERS.register()
class RoundedRoIAlign(RoIAlign):
    """RoIAlign of boxes with RoIPool's borders: rounded to cells, the last cell included."""

    def forward(self, features, boxes):
        """Pool boxes [(R_i, 4)] from features [(N, C, h, w)]: (S, C, P, P)."""
        rounded = []
        for image_boxes in boxes:
            first, last = (image_boxes * self.scale).round().split(2, dim=1)
            end = torch.maximum(last, first) + 1
            rounded.append(torch.cat([first, end], dim=1) / self.scale)
        return super().forward(features, rounded)


@ROI_POOLERS.register()
class EnlargedRoIAlign(RoIAlign):
    """RoIAlign of boxes whose right and lower borders are one cell further, as in RoIPool, but not rounded."""

    def forward(self, features, boxes):
        """Pool boxes [(R_i, 4)] from features [(N, C, h, w)]: (S, C, P, P)."""
        cell = torch.tensor([0, 0, 1 / self.scale, 1 / self.scale])
        return super().forward(features, [image_boxes + cell.to(image_boxes) for image_boxes in boxes])
