"""Tensor functions with torch's and torchvision's signatures.

Some have a fast path for the CPU, next to the plain operator that it equals; see ``cpu.has_cpu_kernel``.
"""
