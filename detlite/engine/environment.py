"""The first lines of a log: versions, machine and command line."""

import contextlib
import logging
import os
import platform
import shlex
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
    machine = f"{platform.system()} {platform.release()} {platform.machine()}"
    logger.info("detlite %s%s, %s, %s, device %s", __version__, commit, libraries, machine, chosen)
    program, *arguments = sys.argv
    logger.info("command: %s", shlex.join([os.path.basename(program), *arguments]))


def find_commit():
    """Return the commit of the clone that detlite runs from, such as "1a2b3c4", or None. No program is started."""
    git = CLONE / ".git"
    with contextlib.suppress(OSError):
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        name = head.removeprefix("ref: ")  # of a branch, or the commit itself
        if name == head:
            return head[:7]
        if (git / name).is_file():
            return (git / name).read_text(encoding="utf-8")[:7]
        for line in (git / "packed-refs").read_text(encoding="utf-8").splitlines():
            if line.endswith(f" {name}"):
                return line[:7]
    return None
