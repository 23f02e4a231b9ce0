"""How far a loop has come: a bar on a terminal, a line of the log a minute where output goes to a file."""

import logging
import sys

from tqdm import tqdm

logger = logging.getLogger("detlite")

SECONDS = 60  # between two lines
LINE = "{desc}: {n_fmt}/{total_fmt} {unit}, {elapsed} so far, {remaining} left"


def on_terminal():
    """Whether there is somebody to look at a bar."""
    return sys.stderr.isatty()


def progress(iterable=None, **options):
    """A tqdm bar over an iterable, or one to ``update``; where there is no terminal it logs lines instead.

    Args:
        iterable: what to go through.
        options: tqdm's, such as ``total`` and ``unit``; ``desc`` is needed; ``disable`` for neither bar nor lines.
    """
    if on_terminal():
        return tqdm(iterable, dynamic_ncols=True, **options)
    rare = {"mininterval": SECONDS, "delay": SECONDS, "miniters": 1}
    plain = {"bar_format": LINE, "leave": False, "position": 0}  # no cursor moves below a bar that is still open
    return tqdm(iterable, file=_Log(), **plain, **rare, **options)


class _Log:
    """What tqdm takes for a terminal."""

    def write(self, text):
        text = text.strip()
        if text:
            logger.info("%s", text)

    def flush(self):
        pass
