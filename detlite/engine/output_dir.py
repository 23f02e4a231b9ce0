"""OUTPUT_DIR: locked by a training, opened for a run, and the files of an earlier run moved aside."""

import contextlib
import functools
import logging
import os
import re
import shutil
import socket
import time
from pathlib import Path

from detlite import distributed
from detlite.errors import UserError, prefix_errors
from detlite.files import user_path
from detlite.logs import move_log_to
from detlite.writing import PART, RECORD, claim, explain_write_errors, without_links

logger = logging.getLogger("detlite")

# Patterns of the files and folders that a run writes.
RUN_FILES = (
    *("config.yaml", "log.txt", "metrics.jsonl", "checkpoint_*.pth", "model_best.pth", "model_final.pth"),
    *("failed_step_*", "test_log.txt", "predictions.json", "evaluation.json", "report.html", "thresholds.json"),
    *("pictures", "tables", "tensorboard", "tests"),
)
# Half-written files that a killed training left. The pattern does not match the files of other commands, which may be
# writing to the same folder now.
PARTS = re.compile(rf"(config\.yaml|model_(best|final)\.pth|checkpoint_\d+\.pth|failed_step_\w+\.\w+)({PART}|\.part)")
LOCK = ".lock"
WAIT = 5.0  # seconds that a run waits for the lock: a killed process may still be ending


def holding_output(train):
    """Decorate a training so that its main process holds the lock of OUTPUT_DIR, until it ends in whatever way."""

    @functools.wraps(train)
    def locked(cfg, *args, **kwargs):
        with contextlib.ExitStack() as stack:
            # All processes learn the outcome, so that all end with the same message.
            problem = distributed.from_main(lambda: _try_to_hold(user_path(cfg.OUTPUT_DIR), stack))
            if problem:
                raise UserError(f"OUTPUT_DIR: {problem}")
            return train(cfg, *args, **kwargs)

    return locked


def _try_to_hold(folder, stack):
    """Lock a folder until the stack is closed, and return None, or the reason why that is impossible."""
    is_new = not folder.exists()
    try:
        with explain_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(_open_lock(folder / LOCK))
    except UserError as error:
        return str(error)
    stack.callback(file.truncate, 0)
    if is_new:
        stack.callback(_remove_unused, folder)
    return None


def _remove_unused(folder):
    """Remove a folder that holds nothing but the lock, for example because the config had a mistake."""
    with contextlib.suppress(OSError):
        if os.listdir(folder) == [LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()


def _open_lock(path):
    """Open and lock a file, and write into it which process holds the lock.

    If another process holds the lock after WAIT seconds, raise a UserError. That process may be ending.
    """
    deadline = time.monotonic() + WAIT
    while True:
        file = open(path, "a+", encoding="utf-8", errors="replace", opener=without_links)
        try:
            import fcntl

            # The lock lasts until the file is closed. A forked process, such as a loader worker, does not inherit it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            with file:
                file.seek(0)
                holder = file.readline(200).strip()
            if time.monotonic() > deadline:
                where = f"another training writes to {path.parent}: {holder}"
                raise UserError(f"{where}; wait for it or choose another folder") from None
            time.sleep(0.2)
        except (ImportError, OSError) as error:  # Windows, or a file system without locks
            text = "OUTPUT_DIR: %s cannot be locked (%s); do not start a second training there"
            logger.warning(text, path.parent, error)
            return file
        else:
            file.truncate(0)
            when = time.strftime("%Y-%m-%d %H:%M:%S")
            print(f"process {os.getpid()} on {socket.gethostname()}, since {when}", file=file, flush=True)
            return file


def open_output(folder, keep):
    """Make OUTPUT_DIR and open its log, or raise a UserError. The caller holds the lock.

    If ``keep`` is false, an earlier run's files are moved to ``earlier/<time>``. Otherwise they stay, to be resumed.
    """
    with prefix_errors("OUTPUT_DIR: "):
        old, aside = [], None
        with explain_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if keep:
                for file in _run_files(folder):
                    old += filter(Path.is_file, (file, *file.rglob("*")))
            else:
                aside = _move_aside(folder)
            for file in folder.iterdir():
                if PARTS.fullmatch(file.name):
                    logger.info("removing %s: an earlier run was killed while writing it", file)
                    file.unlink()
        claim(folder / "log.txt", *old, adopt=True)
        with explain_write_errors(folder / "log.txt"):
            move_log_to(folder / "log.txt")
    if aside:
        logger.info("an earlier run's files were moved to %s", aside)


def _run_files(folder):
    """Return the files and folders of an earlier run."""
    return [path for pattern in RUN_FILES for path in sorted(folder.glob(pattern))]


def _move_aside(folder):
    """Move an earlier run's files to a new folder below ``earlier``. Return it, or None without such files."""
    old = _run_files(folder)
    if not old:
        return None
    for path in old:
        if path.is_dir() and path.name != "tensorboard" and not any(path.rglob(RECORD)):
            raise UserError(f"{path} exists, and has no {RECORD} of detlite's; choose another OUTPUT_DIR")

    # The time of the first file names the new folder. If there is such a folder already, a number is appended.
    when = time.strftime("%Y%m%d-%H%M%S", time.localtime(old[0].stat().st_mtime))
    aside = folder / "earlier" / when
    number = 0
    while aside.exists():
        number += 1
        aside = folder / "earlier" / f"{when}-{number}"
    aside.mkdir(parents=True)
    for file in old:
        shutil.move(file, aside / file.name)
    if (folder / RECORD).exists():
        shutil.copy2(folder / RECORD, aside)
    return aside
