"""When the fast paths for the CPU may be used."""

import torch


def has_cpu_kernel(tensor):
    """Check whether a fast path may be used: the tensor is on the CPU, and the model is not being exported."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()
