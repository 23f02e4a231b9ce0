"""How a command's own process uses memory and threads."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST_KEPT = 64 * 2**20  # bytes: most feature maps of a usual image; larger tensors come and go


def keep_freed_memory():
    """Let the C library keep what is freed, where it is glibc (Linux).

    By default every large tensor is fetched from the system page by page and given back, in every step anew: on a CPU
    a tenth of a detector's time. It is for the whole process, so only commands do it, whose process is their own.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def wait_briefly():
    """Let a thread that waits for another give up its core soon, where OpenMP is GNU's (Linux); before torch is loaded.

    By default it spins for some milliseconds. Beside loader workers and other programs that takes the core from the
    very thread it waits for: a training step on two cores took 1.7 times as long beside one busy process, and with this
    as long as ever on an idle machine. The number is libgomp's own where there are more threads than cores.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "1000"
