"""Run one attack in a fork of this process, and name every rule that it breaks.

The rules: the exit status is 0, 1, 2, 130 or 143. No traceback and no escape sequence is printed. The command ends
within 20 seconds. No file that was there changes, and new files appear only where the command says. The command uses no
network, starts no program, and leaves no process.
"""

import contextlib
import ctypes
import faulthandler
import os
import resource
import shlex
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from multiprocessing import util
from pathlib import Path
from typing import NamedTuple

SECONDS = 20  # that a command may take on an idle machine
STATUSES = (0, 1, 2, 130, 143)
BYTES = 7 * 2**30  # of addresses, half of which torch takes: an attack must not use up the machine's memory
FILE_BYTES = 2**30
FORBIDDEN = ("Traceback (most recent call last)", "Exception ignored", "--- Logging error", "\x1b")
PROGRAMS = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn"}
NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"}
# Audit events that change a path, and the number of the paths that they begin with.
CHANGES = {"os.remove": 1, "os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.truncate": 1, "os.chmod": 1, "os.chown": 1}
CHANGES |= {"os.link": 2, "os.symlink": 2, "os.utime": 1, "shutil.rmtree": 1, "shutil.move": 2}
PR_SET_CHILD_SUBREAPER = 36


class Case(NamedTuple):
    """One attack.

    Attributes:
        name: the kind of attack.
        command: the words of detlite's command line, or a function that is called instead.
        writes: the paths, relative to the current folder, below which the command may make new files.
        owns: the paths below which it may also change files, because detlite wrote them.
    """

    name: str
    command: object
    writes: tuple = ("output",)
    owns: tuple = ()

    def line(self):
        """Return the command line as text for a shell."""
        if callable(self.command):
            return f"python: {self.command.__name__}"
        return "detlite " + shlex.join(ascii(word)[1:-1] if not word.isprintable() else word for word in self.command)


class Outcome(NamedTuple):
    """What came of a case: its name and command line, the exit status, the broken rules, and what was printed."""

    name: str
    line: str
    status: object
    complaints: list
    text: str


def judge(make, folder, seconds=SECONDS):
    """Make a case, run it in a fork, and return the :class:`Outcome`.

    Args:
        make: called in the folder ``work``, the attack's current folder, and returns a :class:`Case`.
        folder: an empty folder. The command sees ``work``, ``home`` and ``tmp`` in it, and ``elsewhere`` next to these.
        seconds: time limit.
    """
    if sys.platform == "linux":  # processes that lose their parent become children of this one
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for name in ("work", "home", "tmp", "elsewhere"):
        (folder / name).mkdir(parents=True)
    for name in ("movie.mkv.part", "predictions.json", "photo.png", "notes.txt", "model_final.pth", "log.txt"):
        (folder / "elsewhere" / name).write_text("of another program")
    os.chdir(folder / "work")
    # Would a command import modules of its current folder, this one would show.
    for name in ("random.py", "yaml.py", "sitecustomize.py"):
        Path(name).write_text("raise SystemExit('ran code of the current folder')")
    case = make()
    before = _snapshot(folder)

    # Files of the verdict itself are next to the attack's folder.
    printed, events = folder.with_suffix(".printed"), folder.with_suffix(".events")
    printed.touch()
    events.touch()
    pid = os.fork()
    if pid == 0:
        _attack(case, folder, printed, events)
    status = _wait(pid, seconds)
    complaints = [] if status in STATUSES else [f"exit status {status}"]
    complaints += _end_processes()
    text = printed.read_bytes().decode("utf-8", "backslashreplace")
    complaints += [f"printed {ascii(word)}" for word in FORBIDDEN if word in text]
    complaints += sorted(set(events.read_text().splitlines()))
    complaints += _compare(before, _snapshot(folder), case)
    printed.unlink()
    events.unlink()
    return Outcome(case.name, case.line(), status, complaints, text)


def _attack(case, folder, printed, events):
    """Run the command as a program of its own would run it; never return."""
    os.setsid()
    for descriptor, path in ((0, os.devnull), (1, printed), (2, printed)):
        opened = os.open(path, os.O_RDWR | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)
    os.environ |= {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
    for name in ("XDG_CACHE_HOME", "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        os.environ.pop(name, None)
    tempfile.tempdir = None
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.register(signal.SIGUSR2)
    _watch(folder, os.open(events, os.O_WRONLY | os.O_APPEND))
    status = 1
    try:
        status = _run(case.command)
        util._exit_function()  # ends loader workers, as the end of a program does
        threading._shutdown()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _run(command):
    """Return the exit status of a command, as the interpreter would."""
    from detlite.cli import main
    from detlite.errors import UserError

    try:
        return (command() or 0) if callable(command) else main(command)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1


def _watch(folder, events):
    """Record programs, connections and changes outside a folder; refuse connections."""

    def is_outside(path):
        if isinstance(path, int) or path is None or "\0" in os.fsdecode(path):
            return False
        path = os.path.realpath(os.fsdecode(path))
        return not path.startswith((f"{folder}/", "/dev/"))

    def record(text):
        os.write(events, ascii(text)[1:-1][:500].encode() + b"\n")

    def hook(event, arguments):
        if event in PROGRAMS:
            record(f"started a program: {arguments[:2]}")
        elif event in NETWORK:
            if getattr(arguments[0], "family", None) == socket.AF_UNIX:
                return
            record(f"used the network: {event} {[word for word in arguments if not isinstance(word, socket.socket)]}")
            raise OSError("the network is not for attacks")
        elif event == "open":
            path, _, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) and is_outside(path):
                record(f"opened for writing: {path}")
        elif event in CHANGES:
            if any(map(is_outside, arguments[: CHANGES[event]])):
                record(f"{event} {arguments[: CHANGES[event]]}")

    sys.dont_write_bytecode = True
    sys.addaudithook(hook)


def _wait(pid, seconds):
    """Return the exit status of a process, or words for a hang. A busy machine has more time."""
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(status)
            return status if status >= 0 else 128 - status  # as a shell reports a signal
        late = time.monotonic() - deadline
        if late > 0 and late > seconds * (os.getloadavg()[0] / os.cpu_count() - 1):
            break
        time.sleep(0.01)
    os.kill(pid, signal.SIGUSR2)  # prints where it hangs
    time.sleep(0.1)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return f"missing: still running after {seconds} s"


def _end_processes():
    """End what an attack left behind, and return complaints about it."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
        except ChildProcessError:  # none is left
            return []
    left = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    for child in map(int, left):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    return [f"left {len(left)} processes"]


def _snapshot(folder):
    """Return {relative path: (kind, size, time of change)} of all that is in a folder."""
    found = {}
    for path, folders, files in os.walk(folder):
        for name in folders + files:
            entry = os.lstat(os.path.join(path, name))
            is_folder = name in folders and not os.path.islink(os.path.join(path, name))
            content = None if is_folder else (entry.st_mode, entry.st_size, entry.st_mtime_ns, entry.st_ino)
            found[os.path.relpath(os.path.join(path, name), folder / "work")] = content
    return found


def _compare(before, after, case):
    """Return complaints about files that changed, and about new ones in a wrong place."""

    def is_below(path, places):
        return any(place == "." or path == place or path.startswith(f"{place}/") for place in places)

    complaints = []
    for path in sorted(before.keys() | after.keys()):
        if path not in before and not is_below(path, case.writes + case.owns):
            complaints.append(f"made {ascii(path)}")
        elif path in before and before[path] != after.get(path, "gone") and not is_below(path, case.owns):
            complaints.append(f"changed or removed {ascii(path)}")
    return complaints
