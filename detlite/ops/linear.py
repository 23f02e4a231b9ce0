"""Fully connected layers by oneDNN."""

from torch import nn

from detlite.ops.cpu import ONEDNN_LINEAR, has_onednn_kernel


class Linear(nn.Linear):
    """nn.Linear by oneDNN for CPU inference: about twice as fast on AMD processors."""

    def forward(self, features):
        """Apply the layer: (S, D) -> (S, out_features)."""
        if not has_onednn_kernel(features, self.weight):
            return super().forward(features)
        return ONEDNN_LINEAR(features, self.weight, self.bias, "none", [], "")
