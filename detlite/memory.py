"""The memory that this process has taken."""

import contextlib
import sys
from pathlib import Path


def peak_memory():
    """Return the most memory that this process has held, in bytes; 0 on Windows."""
    with contextlib.suppress(OSError):
        # On Linux, getrusage would count what the parent held when it started this process.
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory():
    """Restart the peak at the memory that is held now; only on Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
