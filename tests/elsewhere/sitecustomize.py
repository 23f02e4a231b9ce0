"""Make a process, and those that it spawns, resemble one on Windows: a folder for PYTHONPATH, imported at the start.

There are no POSIX signals, no fork, /proc, glibc or POSIX modules. Open files can be neither renamed nor removed,
folders cannot be opened, and names have no colon. Text files that are opened without an encoding are an error.
"""

import ctypes
import importlib
import multiprocessing
import multiprocessing.popen_fork
import os
import shutil
import signal
import subprocess
import sys
import warnings

# torch and others have their own code for each system, so they are imported before the changes.
for name in ("faster_coco_eval", "fvcore.nn", "torch.distributed.launcher.api", "torchvision"):
    importlib.import_module(name)

MODULES = ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog")
SIGNALS = ("SIGINT", "SIGTERM", "SIGABRT", "SIGFPE", "SIGILL", "SIGSEGV")  # that Windows has
OF_SIGNAL = ("alarm", "setitimer", "getitimer", "pause", "pthread_kill", "sigwait", "siginterrupt")
OF_OS = (
    "fork",
    "forkpty",
    "register_at_fork",
    "sysconf",
    "sched_getaffinity",
    "getuid",
    "geteuid",
    "getgid",
    "getpgid",
)
OF_OS += ("killpg", "setsid", "uname", "nice", "mkfifo", "getloadavg", "fchmod", "chown", "O_NOFOLLOW", "O_DIRECTORY")


class _Libraries(ctypes.CDLL):
    def __init__(self, name, *args, **kwargs):
        if name is None:
            raise TypeError("bad argument type for built-in operation")
        if str(name).startswith("libc."):
            raise FileNotFoundError(f"Could not find module {name!r}")
        super().__init__(name, *args, **kwargs)


def _refuse_open(event, arguments):
    """Refuse what Windows refuses to open. The function is called by Python itself, for each event."""
    if event != "open" or not isinstance(arguments[0], (str, bytes)) or _refuse_open.is_off:
        return
    path = os.fsdecode(arguments[0])
    if path.startswith("/proc/"):
        raise FileNotFoundError(2, "No such file or directory", path)
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    if set(os.path.basename(path)) & set('<>:"|?*') and not os.path.exists(path):
        raise OSError(22, "Invalid argument", path)


def _stat(path, *args, **kwargs):
    """Find nothing in /proc."""
    if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith("/proc/"):
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return STAT(path, *args, **kwargs)


def _is_open(path):
    """Return whether this process has a file open, or mapped into its memory."""
    _refuse_open.is_off = True
    with open("/proc/self/maps") as file:
        names = {line.split(maxsplit=5)[-1].strip() for line in file}
    for number in os.listdir("/proc/self/fd"):
        if os.path.lexists(f"/proc/self/fd/{number}"):
            names.add(os.readlink(f"/proc/self/fd/{number}"))
    _refuse_open.is_off = False
    return os.path.realpath(path) in names


def _refuse_open_files(function):
    def refuse(*paths, **options):
        for path in paths:
            if _is_open(path):
                raise PermissionError(13, "The process cannot access the file because it is open", str(path))
        return function(*paths, **options)

    return refuse


for name in MODULES:
    sys.modules[name] = None
for name in dir(signal):
    if name.startswith("SIG") and "_" not in name and name not in SIGNALS:
        delattr(signal, name)
for name in OF_SIGNAL:
    delattr(signal, name)
for name in OF_OS:
    delattr(os, name)
for name in ("replace", "rename", "remove", "unlink"):
    setattr(os, name, _refuse_open_files(getattr(os, name)))
multiprocessing.popen_fork.Popen.kill = lambda process: process._send_signal(9)
subprocess.Popen.kill = lambda process: process.send_signal(9)  # on Windows it needs no signal
STAT, os.stat = os.stat, _stat
valid = {getattr(signal, name) for name in SIGNALS}
signal.valid_signals = lambda: valid
ctypes.CDLL = _Libraries
shutil._use_fd_functions = False
multiprocessing.set_start_method("spawn", force=True)
_refuse_open.is_off = False
sys.addaudithook(_refuse_open)
warnings.filterwarnings("error", category=EncodingWarning, module=r"detlite\.")
