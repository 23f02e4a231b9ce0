"""Open OUTPUT_DIR for a run, and move the files of an earlier run aside."""

import logging
import shutil
import time

from detlite.checkpoint.files import PARTIAL
from detlite.errors import UserError
from detlite.logs import move_log_to

logger = logging.getLogger("detlite")

# Patterns of the files and folders that a run writes.
RUN_FILES = ("config.yaml", "log.txt", "metrics.jsonl", "*.pth", "failed_step_*", "predictions.json", "evaluation.json")
RUN_FILES += ("report.html", "pictures", "tables", "tensorboard")


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
    """Move an earlier run's files to a new folder below ``earlier``.

    Returns the new folder, or None if there are no such files.
    """
    old = []
    for pattern in RUN_FILES:
        old += sorted(folder.glob(pattern))
    if not old:
        return None

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
    return aside
