"""Decide when the fast paths for the CPU may be used."""

import torch


def has_cpu_kernel(tensor):
    """Check that a tensor is on the CPU, and that the model is not being compiled or exported."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def is_float32_inference(*tensors):
    """Check that an operation on these tensors computes in float32 on the CPU and needs no gradient."""
    needs_other = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
    return not needs_other and all(has_cpu_kernel(tensor) and tensor.dtype == torch.float32 for tensor in tensors)
