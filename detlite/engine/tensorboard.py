"""A hook that writes the recorded numbers for TensorBoard."""

from detlite import distributed
from detlite.errors import UserError
from detlite.files import flatten
from detlite.registry import HOOKS
from detlite.writing import explain_write_errors


@HOOKS.register()
class TensorBoardHook:
    """Writes the numbers of metrics.jsonl to OUTPUT_DIR/tensorboard. It needs ``pip install tensorboard``.

    When a run resumes, TensorBoard drops the numbers after the checkpoint, so that no step appears twice.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.writer = None

    def before_train(self):
        """Open the files, in the main process."""
        if distributed.is_main():
            self.writer = open_writer(self.trainer.folder / "tensorboard", self.trainer.start)

    def record(self, line):
        """Write a line's numbers as scalars, ``bbox/AP`` for a number in a dict."""
        if self.writer:
            for name, value in flatten(line).items():
                self.writer.add_scalar(name, value, line["step"])

    def after_train(self):
        """Write the numbers that are still in memory."""
        if self.writer:
            self.writer.flush()


def open_writer(folder, start):
    """Open torch's SummaryWriter. It is imported here because it needs an optional package.

    Args:
        folder: folder of the files.
        start: the step that the run resumes from; later steps are dropped.

    Raises:
        UserError: the package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("HOOKS: TensorBoardHook needs the package tensorboard: pip install tensorboard") from None
    with explain_write_errors(folder):
        return SummaryWriter(str(folder), purge_step=start + 1 if start else None)
