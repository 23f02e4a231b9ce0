"""The console, the log and the progress bars."""

import contextlib
import logging
import sys
from logging.handlers import MemoryHandler

from tqdm import tqdm

from detlite import distributed
from detlite.console import printable

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
    console.setFormatter(_Lines())
    console.setLevel(logging.INFO)
    logger.addHandler(console)
    logger.addHandler(MemoryHandler(capacity=10**6, flushLevel=logging.CRITICAL + 1))


def move_log_to(path):
    """Write the log to a file from now on, beginning with the messages since :func:`start_log`."""
    log = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    log.setFormatter(_Lines("%(asctime)s %(levelname)s %(message)s"))
    for handler in list(logger.handlers):
        if isinstance(handler, MemoryHandler):
            handler.setTarget(log)
            handler.flush()
            logger.removeHandler(handler)
    logger.addHandler(log)


class _Lines(logging.Formatter):
    """Escape control characters, and indent further lines of a message: a name in it cannot forge a log line.

    A message with the format "%s", such as a table, keeps its lines; its cells are passed through ``one_line``.
    """

    def format(self, record):
        text = super().format(record)
        return printable(text if record.msg == "%s" else text.replace("\n", "\n  "))


class _Console(logging.Handler):
    """Print messages, with the level of warnings, around a progress bar. Standard output may be closed or None."""

    def emit(self, record):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            mark = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
            tqdm.write(mark + self.format(record))
            sys.stdout.flush()  # a log file shows each line as it comes


class _LogFile(logging.FileHandler):
    """Write messages to a file. If that fails, warn once on the console; the run continues without them."""

    has_failed = False

    def handleError(self, record):
        """Report the first failure. logging would print a traceback for each."""
        if not self.has_failed:
            self.has_failed = True
            reason = getattr(sys.exc_info()[1], "strerror", None) or sys.exc_info()[1]
            text = "%s: cannot be written: %s; lines of the log may be lost"
            logger.warning(text, self.baseFilename, reason)

    def close(self):
        """Close the file. Lines that a full disk has kept back are lost."""
        with contextlib.suppress(OSError):
            super().close()


def on_terminal():
    """Return whether progress bars are shown: standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


class Bar(tqdm):
    """A tqdm bar whose time left follows ``typical_seconds``, the time of one step, if that is set."""

    typical_seconds = 0.0

    @property
    def format_dict(self):
        """Return tqdm's values for the bar's text."""
        return super().format_dict | ({"rate": 1 / self.typical_seconds} if self.typical_seconds else {})

    def __del__(self):
        """Leave a bar unclosed: tqdm would change its set of bars, perhaps in the middle of an iteration over it."""


def progress(iterable=None, **options):
    """Return a :class:`Bar` with tqdm's ``options`` and a ``desc``. Without a terminal it logs a line per minute."""
    if on_terminal():
        return Bar(iterable, dynamic_ncols=True, **options)
    rare = {"mininterval": SECONDS, "delay": SECONDS, "miniters": 1}
    plain = {"bar_format": LINE, "leave": False, "position": 0}  # no cursor moves below a bar that is still open
    return Bar(iterable, file=_Log(), **plain, **rare, **options)


class _Log:
    """A file for tqdm that logs each line."""

    def write(self, text):
        if text.strip():
            logger.info("%s", text.strip())

    def flush(self):
        pass
