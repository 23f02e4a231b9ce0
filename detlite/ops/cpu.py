"""Decide when the fast paths for the CPU may be used."""

import torch


def has_cpu_kernel(tensor):
    """Check that a tensor is on the CPU, and that the model is not being compiled or exported."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()
