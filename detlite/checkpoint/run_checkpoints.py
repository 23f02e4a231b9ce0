"""The checkpoints of a run: numbered by step, the last few kept; the newest whole one is gone on from."""

import logging
from pathlib import Path

from detlite.checkpoint.files import load_checkpoint, save_checkpoint
from detlite.errors import UserError

logger = logging.getLogger("detlite")


class CheckpointSeries:
    """The files ``checkpoint_0000500.pth`` and so on of a folder.

    Args:
        folder: where they are.
        keep: how many of the last ones stay when a new one is saved.
    """

    def __init__(self, folder, keep=2):
        self.folder = Path(folder)
        self.keep = keep

    def path(self, step):
        """The file of a step."""
        return self.folder / f"checkpoint_{step:07d}.pth"

    def steps(self):
        """The steps of which there is a file, ascending."""
        numbers = (file.stem.removeprefix("checkpoint_") for file in self.folder.glob("checkpoint_*.pth"))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def save(self, content, step):
        """Write a step's checkpoint, then remove all but the last ones up to this step; returns the file.

        A checkpoint of a later step is removed, too: it was damaged, as the run would have gone on from it.

        Raises:
            OSError: see :func:`~detlite.checkpoint.files.save_checkpoint`; nothing is removed then.
        """
        save_checkpoint(content, self.path(step))
        kept = [number for number in self.steps() if number <= step][-self.keep :]
        for number in set(self.steps()) - set(kept):
            self.path(number).unlink(missing_ok=True)
        return self.path(step)

    def load_newest(self):
        """(file, content) of the newest checkpoint that can be read, or None if there are none.

        Those that are damaged are reported in the log.

        Raises:
            UserError: there are some, and all of them are damaged.
        """
        errors = []
        for step in reversed(self.steps()):
            try:
                content = load_checkpoint(self.path(step))
            except UserError as error:
                errors.append(str(error))
                logger.warning("warning: %s; trying the checkpoint before it", error)
            else:
                return self.path(step), content
        if errors:
            raise UserError(f"no checkpoint in {self.folder} can be read: {'; '.join(errors)}")
        return None
