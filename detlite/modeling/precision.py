"""The precision of convolutions and linear layers, MODEL.PRECISION."""

import contextlib
import functools
import logging
import threading
from pathlib import Path
from typing import NamedTuple

import torch

logger = logging.getLogger("detlite")

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
AMPERE = 8, 0  # the first CUDA compute capability with bf16 and TF32

# Linux's names of the CPU instructions for a data type: any of them is enough.
CPU_FLAGS = {"bf16": ("avx512_bf16", "amx_bf16"), "fp16": ("avx512_fp16", "amx_fp16")}

_TF32_LOCK = threading.RLock()  # torch's TF32 settings are global, so threads that change them take turns


class Precision(NamedTuple):
    """A precision for a device, and why it is used."""

    name: str  # fp32, tf32, bf16 or fp16
    reason: str
    is_slow: bool = False  # whether fp32 is faster on the device

    def __str__(self):
        return f"{self.name}: {self.reason}"


def resolve_precision(setting, device):
    """Return the :class:`Precision` that MODEL.PRECISION, ``setting``, gives on a torch.device."""
    if setting == "auto":
        name, reason = _fastest(device)
        return Precision(name, f"MODEL.PRECISION is auto, and {reason}")
    if setting == "tf32" and device.type != "cuda":
        return Precision("fp32", f"MODEL.PRECISION is tf32, which exists on CUDA only, not on {device.type}")
    if setting in DTYPES and device.type == "cpu" and not has_cpu_instructions(setting):
        return Precision(
            setting,
            f"this CPU has no instructions for it ({', '.join(CPU_FLAGS[setting])}), so it is slower than fp32 (bf16 "
            "took three times fp32's time on an Intel Ice Lake); set MODEL.PRECISION fp32 or auto",
            is_slow=True,
        )
    reason = "set by MODEL.PRECISION"
    if setting == "fp32" and device.type == "cuda":
        reason += "; torch computes convolutions in TF32 by default, linear layers in fp32"
    return Precision(setting, reason)


def log_precision(model):
    """Log a detector's precision and the reason, unless it is a custom detector without MODEL.PRECISION."""
    if hasattr(model, "precision_setting"):
        precision = resolve_precision(model.precision_setting, next(model.parameters()).device)
        logger.log(logging.WARNING if precision.is_slow else logging.INFO, "precision %s", precision)


def _fastest(device):
    """Return bf16 or fp32, whichever should be faster on a device, and the reason."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        name = "bf16" if (major, minor) >= AMPERE else "fp32"
        return name, f"the GPU has compute capability {major}.{minor}; bf16 needs 8.0"
    if device.type == "cpu":
        if has_cpu_instructions("bf16"):
            return "bf16", "this CPU has instructions for bf16"
        return "fp32", f"this CPU has no instructions for bf16 ({', '.join(CPU_FLAGS['bf16'])})"
    return "fp32", f"bf16 has not been tried on {device.type}"


@functools.cache
def has_cpu_instructions(name):
    """Return whether this machine's CPU has instructions for bf16 or fp16, as far as Linux tells."""
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:  # not Linux
        return False
    return not set(CPU_FLAGS[name]).isdisjoint(words)


def autocast(precision, device):
    """Return a context in which convolutions and linear layers use a precision: fp32, tf32, bf16 or fp16."""
    if precision == "tf32":
        return allowing_tf32(True)
    if precision in DTYPES:
        return torch.autocast(device.type, DTYPES[precision])
    return contextlib.nullcontext()


def backward_context(model):
    """Return the context for a model's backward pass, which autocast does not need but TF32 does."""
    return allowing_tf32(True) if getattr(model, "precision", "fp32") == "tf32" else contextlib.nullcontext()


@contextlib.contextmanager
def allowing_tf32(is_allowed):
    """Let CUDA's matrix products and convolutions round their float32 factors to TF32 (10 bits), or forbid it."""
    # Not torch's newer setting fp32_precision: torch 2.6 lacks it, and user code that reads allow_tf32 would then fail.
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    with _TF32_LOCK:
        before = [backend.allow_tf32 for backend in backends]
        try:
            for backend in backends:
                backend.allow_tf32 = is_allowed
            yield
        finally:
            for backend, value in zip(backends, before, strict=True):
                backend.allow_tf32 = value
