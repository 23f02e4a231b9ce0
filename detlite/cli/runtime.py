"""Memory and threads of a command's process."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # constants in glibc's malloc.h
LARGEST_KEPT = 128 * 2**20  # bytes: most feature maps, and 1,000 pooled regions. Larger tensors are returned when freed


def keep_freed_memory():
    """Make glibc (Linux) keep freed memory for the next tensors; other C libraries are left unchanged.

    By default malloc requests the memory of each large tensor from the system and returns it, in every step. That takes
    a tenth of a detector's time on a CPU. The setting affects the whole process, so only commands use it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def wait_briefly():
    """Make waiting threads of GNU OpenMP (Linux) release their cores soon; call before importing torch.

    By default a waiting thread spins for milliseconds, and may occupy the core that another thread needs: next to one
    busy process, a training step on two cores took 1.7 times as long as with this setting.
    """
    if "GOMP_SPINCOUNT" not in os.environ and "OMP_WAIT_POLICY" not in os.environ:
        os.environ["GOMP_SPINCOUNT"] = "1000"
