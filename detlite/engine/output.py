"""What a run writes to OUTPUT_DIR: the log, metrics, results and tables; and what becomes of an earlier run's files."""

import csv
import itertools
import json
import logging
import shutil
import sys
import time
from logging.handlers import MemoryHandler

from tqdm import tqdm

from detlite import distributed
from detlite.checkpoint.files import PARTIAL
from detlite.errors import UserError

logger = logging.getLogger("detlite")

RUN_FILES = (
    "config.yaml",
    "log.txt",
    "metrics.jsonl",
    "*.pth",
    "failed_step_*",
    "predictions.json",
    "evaluation.json",
    "report.html",
    "pictures",
    "tables",
    "tensorboard",
)


def start_log():
    """Print messages from now on, and keep them for the log.txt that :func:`open_output` opens; in the main process."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    if not distributed.is_main():
        logger.addHandler(logging.NullHandler())
        return
    console = _Console()
    console.setLevel(logging.INFO)
    logger.addHandler(console)
    logger.addHandler(MemoryHandler(capacity=10**6, flushLevel=logging.CRITICAL + 1))


def open_output(folder, keep):
    """Make OUTPUT_DIR and open its log; an earlier run's files, unless kept, are moved into a folder ``earlier``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        old = [] if keep else [file for pattern in RUN_FILES for file in sorted(folder.glob(pattern))]
        if old:
            when = time.strftime("%Y%m%d-%H%M%S", time.localtime(old[0].stat().st_mtime))
            names = (f"{when}-{number}" if number else when for number in itertools.count())  # two runs in one second
            aside = next(path for name in names if not (path := folder / "earlier" / name).exists())
            aside.mkdir(parents=True)
            for file in old:
                shutil.move(file, aside / file.name)
        for file in folder.glob(f"*{PARTIAL}"):
            logger.info("removing %s, which a run that was killed did not write to its end", file)
            file.unlink()
        log = logging.FileHandler(folder / "log.txt", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"OUTPUT_DIR: cannot write to {folder}: {error.strerror}") from None
    log.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    for handler in list(logger.handlers):
        if isinstance(handler, MemoryHandler):
            handler.setTarget(log)
            handler.flush()
            logger.removeHandler(handler)
    logger.addHandler(log)
    if old:
        logger.info("an earlier run's files were moved to %s", aside)


class _Console(logging.Handler):
    """Prints messages without breaking a progress bar."""

    def emit(self, record):
        encoding = sys.stdout.encoding or "utf-8"  # names of files may hold bytes that are no characters
        tqdm.write(self.format(record).encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()  # a log file shows each line as it comes


def read_json(path):
    """What a JSON file holds."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file: {error}") from None


def write_json(value, path):
    """Write a value as JSON."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, allow_nan=False)


def write_table(rows, path):
    """Write a list of dicts with the same keys as ``path``.json and ``path``.csv."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(rows, f"{path}.json")
    write_csv(rows, f"{path}.csv", list(rows[0]) if rows else [])


def write_csv(rows, path, columns):
    """Write a list of dicts as a CSV file with a head of the columns, their keys."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
