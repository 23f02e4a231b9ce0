"""Memory and threads of a command's process."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST_KEPT = 64 * 2**20  # bytes: most feature maps of a usual image; larger tensors are returned when freed


def keep_freed_memory():
    """Make glibc (Linux) keep freed memory for the next tensors; other C libraries are left unchanged.

    By default malloc fetches and returns every large tensor page by page, again in every step. That takes a tenth of a
    detector's time on a CPU. The setting is for the whole process, so only commands make it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def wait_briefly():
    """Make a thread of GNU's OpenMP (Linux) that waits for another release its core soon; call before importing torch.

    By default it spins for milliseconds, and with loader workers or other programs on the machine it may hold the core
    that the other thread needs. Next to one busy process, a training step on two cores took 1.7 times as long; with
    this setting it takes the same time as on an idle machine. libgomp itself uses this number of spins if there are
    more threads than cores.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "1000"
