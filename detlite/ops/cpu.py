"""Where a CPU has ways of its own that give the same numbers in less time."""

import torch


def has_cpu_kernel(tensor):
    """Whether what is computed from a tensor may go a CPU's own way: an exported graph has the usual operators."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()
