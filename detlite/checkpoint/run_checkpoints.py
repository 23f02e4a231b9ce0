"""The numbered checkpoints of a run, from which it can be resumed."""

import logging
import re
from pathlib import Path

from detlite.checkpoint.files import check_loadable, load_checkpoint, save_checkpoint
from detlite.errors import UserError

logger = logging.getLogger("detlite")


class CheckpointSeries:
    """The files ``checkpoint_0000500.pth``, … in the folder of a run, of which the last ``keep`` remain."""

    def __init__(self, folder, keep=2):
        self.folder = Path(folder)
        self.keep = keep

    def path(self, step):
        """Return the path of a step's file."""
        return self.folder / f"checkpoint_{step:07d}.pth"

    def steps(self):
        """Return the steps that have a file, in ascending order."""
        matches = [re.fullmatch(r"checkpoint_(\d{7,})\.pth", file.name) for file in self.folder.glob("*.pth")]
        return sorted(int(match[1]) for match in matches if match)

    def save(self, content, step):
        """Write a step's checkpoint, remove all but the last ones, and return its path. An error removes nothing.

        Checkpoints of later steps are removed as well: they are damaged, or the run would have resumed from them.
        """
        check_loadable(content)
        save_checkpoint(content, self.path(step))
        steps = self.steps()
        kept = [number for number in steps if number <= step][-self.keep :]
        for number in set(steps) - set(kept):
            self.path(number).unlink(missing_ok=True)
        return self.path(step)

    def load_newest(self):
        """Return (path, content) of the newest readable checkpoint, or None without any.

        A warning is logged for each damaged checkpoint. If all are damaged, a UserError is raised.
        """
        errors = []
        for step in reversed(self.steps()):
            try:
                return self.path(step), load_checkpoint(self.path(step))
            except UserError as error:
                errors.append(str(error))
                logger.warning("%s; trying the checkpoint before it", error)
        if errors:
            raise UserError(f"no checkpoint in {self.folder} can be read: {'; '.join(errors)}")
        return None
