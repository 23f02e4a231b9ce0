"""Tensor functions with the signatures of torch and torchvision; on a CPU some have a faster way, a fast path.

Each fast path is next to the plain operator that it equals. :func:`~detlite.ops.cpu.has_cpu_kernel` decides which runs.
"""
