"""The first lines of a log: versions, machine and command line."""

import functools
import logging
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch
import torchvision

from detlite import __version__
from detlite.modeling.build import choose_device

logger = logging.getLogger("detlite")
CLONE = Path(__file__).parents[2]


def log_environment(device):
    """Log the versions of detlite and its libraries, the machine with MODEL.DEVICE ``device``, and the command line."""
    chosen = choose_device(device)
    if chosen.type == "cuda":
        chosen = f"{chosen} ({torch.cuda.get_device_name(chosen)})"
    commit = find_commit()
    commit = f" (commit {commit})" if commit else ""
    libraries = f"torch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}"
    logger.info("detlite %s%s, %s, %s, device %s", __version__, commit, libraries, platform.platform(), chosen)
    program, *arguments = sys.argv
    logger.info("command: %s", shlex.join([os.path.basename(program), *arguments]))


@functools.cache
def find_commit():
    """Return the commit of the clone that detlite runs from, such as "1a2b3c4-dirty", or None without one."""
    if not (CLONE / ".git").exists():
        return None
    command = ["git", "-C", str(CLONE), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() or None
