"""Fully connected layers by oneDNN."""

import torch
from torch import nn

from detlite.ops.cpu import has_cpu_kernel

# The operator of compiled models (torch.compile). Unlike F.linear of features.to_mkldnn(), it copies no tensor.
ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # None where torch was built without oneDNN


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
            or ONEDNN_LINEAR is None
            or not len(features)
        ):
            return super().forward(features)
        return ONEDNN_LINEAR(features, self.weight, self.bias, "none", [], "")
