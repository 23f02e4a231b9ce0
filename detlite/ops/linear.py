"""Fully connected layers by oneDNN."""

import torch
from torch import nn
from torch.nn import functional as F

from detlite.ops.cpu import has_cpu_kernel


class Linear(nn.Linear):
    """nn.Linear by oneDNN for CPU inference: about twice as fast on AMD processors."""

    def forward(self, features):
        """Apply the layer: (S, D) -> (S, out_features)."""
        # oneDNN's operator has no gradient, computes in float32 only, and refuses tensors without numbers.
        if (
            torch.is_grad_enabled()
            or not has_cpu_kernel(features)
            or not features.dtype == self.weight.dtype == torch.float32
            or torch.is_autocast_enabled("cpu")
            or not torch.backends.mkldnn.is_available()
            or not len(features)
        ):
            return super().forward(features)
        return F.linear(features.to_mkldnn(), self.weight, self.bias).to_dense()
