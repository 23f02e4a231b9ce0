"""OUTPUT_DIR: opened for a run, and the files of an earlier run moved aside."""

import logging
import shutil
import time

from detlite.checkpoint.files import PARTIAL
from detlite.errors import UserError
from detlite.logs import move_log_to

logger = logging.getLogger("detlite")

RUN_FILES = (
    *("config.yaml", "log.txt", "metrics.jsonl", "*.pth", "failed_step_*", "predictions.json", "evaluation.json"),
    *("report.html", "pictures", "tables", "tensorboard"),
)


def open_output(folder, keep):
    """Make OUTPUT_DIR and open its log, or raise a UserError.

    Args:
        keep: whether an earlier run's files stay. Otherwise they are moved to ``earlier/<time>``.
    """
    aside = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not keep:
            aside = _move_aside(folder)
        for file in folder.glob(f"*{PARTIAL}"):
            logger.info("removing %s: an earlier run was killed while writing it", file)
            file.unlink()
        move_log_to(folder / "log.txt")
    except OSError as error:
        raise UserError(f"OUTPUT_DIR: cannot write to {folder}: {error.strerror}") from None
    if aside:
        logger.info("an earlier run's files were moved to %s", aside)


def _move_aside(folder):
    """Move an earlier run's files to a new folder below ``earlier``, and return it; None if there are no such files."""
    old = []
    for pattern in RUN_FILES:
        old += sorted(folder.glob(pattern))
    if not old:
        return None

    # Two runs may have ended in the same second: later ones get a number.
    when = time.strftime("%Y%m%d-%H%M%S", time.localtime(old[0].stat().st_mtime))
    aside, number = folder / "earlier" / when, 0
    while aside.exists():
        number += 1
        aside = folder / "earlier" / f"{when}-{number}"
    aside.mkdir(parents=True)
    for file in old:
        shutil.move(file, aside / file.name)
    return aside
