"""Fully connected layers by oneDNN."""

import torch
from torch import nn

from detlite.ops.cpu import is_float32_inference

# The operator of compiled models (torch.compile). Unlike F.linear of features.to_mkldnn(), it copies no tensor.
ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # None where torch was built without oneDNN


class Linear(nn.Linear):
    """nn.Linear by oneDNN for CPU inference: about twice as fast on AMD processors."""

    def forward(self, features):
        """Apply the layer: (S, D) -> (S, out_features)."""
        # oneDNN's operator has no gradient, computes in float32 only, and refuses tensors without numbers.
        if ONEDNN_LINEAR is None or not is_float32_inference(features, self.weight) or not len(features):
            return super().forward(features)
        return ONEDNN_LINEAR(features, self.weight, self.bias, "none", [], "")
