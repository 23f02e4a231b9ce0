"""The RPN's layers (Ren et al. 2015, section 3.1).

Shape shorthand: N images, A anchors per cell, C columns of logits (1 for sigmoid, 2 for softmax).
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detlite.errors import require
from detlite.ops.convolution import Conv3x3
from detlite.registry import RPN_HEADS


@RPN_HEADS.register()
class RPNHead(nn.Module):
    """A 3 x 3 convolution, then 1 x 1 convolutions for objectness and box deltas.

    Args:
        conv_dim: channels of the 3 x 3 convolution.
        num_convs: 3 x 3 convolutions in a row.
        objectness: softmax over two columns (background, object), as in the paper, or sigmoid of one.
        init_std: standard deviation of all weights' normal initialization.
        object_prior: initial score of every anchor; with the focal loss a low one, such as 0.01, keeps the many
            negative anchors from dominating the first steps (Lin et al. 2017, section 3.3).
    """

    def __init__(
        self,
        in_channels: int,
        num_anchors: int,
        *,
        conv_dim: int = 512,
        num_convs: int = 1,
        objectness: Literal["softmax", "sigmoid"] = "softmax",
        init_std: float = 0.01,
        object_prior: float = 0.5,
    ):
        super().__init__()
        fits = min(conv_dim, num_convs) >= 1 and 0 < object_prior < 1 and 0 < init_std < math.inf
        rule = "need conv_dim >= 1, num_convs >= 1, 0 < object_prior < 1 and init_std > 0"
        require(fits, rule, conv_dim, num_convs, object_prior, init_std)
        self.columns = 2 if objectness == "softmax" else 1
        self.conv = Conv3x3(in_channels, conv_dim)
        self.logits = nn.Conv2d(conv_dim, num_anchors * self.columns, kernel_size=1)
        self.deltas = nn.Conv2d(conv_dim, num_anchors * 4, kernel_size=1)
        more_convs = [Conv3x3(conv_dim, conv_dim) for _ in range(num_convs - 1)]
        self.more_convs = nn.ModuleList(more_convs)  # after the first
        for layer in (self.conv, self.logits, self.deltas, *more_convs):
            nn.init.normal_(layer.weight, std=init_std)
            nn.init.zeros_(layer.bias)

        # The bias of each anchor's last column, "object", is the logit of the prior.
        with torch.no_grad():
            self.logits.bias[self.columns - 1 :: self.columns] = math.log(object_prior / (1 - object_prior))

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Predict for the anchors of every level.

        Args:
            features: list of (N, in_channels, h, w).

        Returns:
            logits, deltas: lists of (N, h * w * A, C) and (N, h * w * A, 4), in the anchors' order.
        """
        logits, deltas = [], []
        for level in features:
            hidden = F.relu(self.conv(level), inplace=True)
            for conv in self.more_convs:
                hidden = F.relu(conv(hidden), inplace=True)
            logits.append(self._per_anchor(self.logits(hidden), self.columns))
            deltas.append(self._per_anchor(self.deltas(hidden), 4))
        return logits, deltas

    @staticmethod
    def _per_anchor(output, columns):
        """Reorder by anchor: (N, A * columns, h, w) -> (N, h * w * A, columns)."""
        return output.permute(0, 2, 3, 1).reshape(output.shape[0], -1, columns)
