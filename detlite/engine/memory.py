"""Memory that a process keeps for its next step."""

import ctypes

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
