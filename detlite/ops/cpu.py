"""Decide when the fast paths for the CPU may be used."""

import torch

# oneDNN's operators in compiled models (torch.compile); None where torch was built without oneDNN. They copy no weight.
ONEDNN_CONV = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def has_cpu_kernel(tensor):
    """Check that a tensor is on the CPU, and that the model is not being compiled or exported."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def has_onednn_kernel(features, weight):
    """Check that oneDNN's operators may be used: in float32, without gradients, and not on an empty tensor."""
    return (
        has_cpu_kernel(features)
        and features.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and ONEDNN_LINEAR is not None
        and features.numel() > 0
    )
