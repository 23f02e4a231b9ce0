"""Tensor functions; on a CPU some have a faster way with the same numbers."""
