"""The console, the log and the progress bars."""

import logging
import sys
from logging.handlers import MemoryHandler

from tqdm import tqdm

from detlite import distributed

logger = logging.getLogger("detlite")

SECONDS = 60  # between two lines of progress
LINE = "{desc}: {n_fmt}/{total_fmt} {unit}, {elapsed} so far, {remaining} left"


def start_log():
    """Print log messages from now on, and keep them for :func:`move_log_to`. Only the main process does so."""
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


def move_log_to(path):
    """Write the log to a file from now on, beginning with the messages since :func:`start_log`.

    Raises:
        OSError: the file cannot be written.
    """
    log = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    log.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    for handler in list(logger.handlers):
        if isinstance(handler, MemoryHandler):
            handler.setTarget(log)
            handler.flush()
            logger.removeHandler(handler)
    logger.addHandler(log)


class _Console(logging.Handler):
    """Print messages without breaking a progress bar."""

    def emit(self, record):
        encoding = sys.stdout.encoding or "utf-8"  # file names may hold bytes that are no characters
        tqdm.write(self.format(record).encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()  # a log file shows each line as it comes


def on_terminal():
    """Return whether progress bars are shown: standard error is a terminal."""
    return sys.stderr.isatty()


def progress(iterable=None, **options):
    """Return a tqdm bar. Without a terminal it logs a line per minute instead.

    Args:
        iterable: the items to count; None for a bar whose ``update`` is called.
        options: tqdm's options, such as ``total`` and ``unit``. ``desc`` is required. ``disable`` shows nothing.
    """
    if on_terminal():
        return tqdm(iterable, dynamic_ncols=True, **options)
    rare = {"mininterval": SECONDS, "delay": SECONDS, "miniters": 1}
    plain = {"bar_format": LINE, "leave": False, "position": 0}  # no cursor moves below a bar that is still open
    return tqdm(iterable, file=_Log(), **plain, **rare, **options)


class _Log:
    """A file for tqdm that logs each line."""

    def write(self, text):
        text = text.strip()
        if text:
            logger.info("%s", text)

    def flush(self):
        pass
