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
        """Open the files, in the main process. On resume, later steps are dropped."""
        if not distributed.is_main():
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("HOOKS: TensorBoardHook needs the package tensorboard: pip install tensorboard") from None
        folder, start = self.trainer.folder / "tensorboard", self.trainer.start
        with explain_write_errors(folder):
            self.writer = SummaryWriter(str(folder), purge_step=start + 1 if start else None)

    def record(self, line):
        """Write a line's numbers as scalars, ``bbox/AP`` for a number in a dict."""
        if self.writer:
            for name, value in flatten(line).items():
                self.writer.add_scalar(name, value, line["step"])

    def after_train(self):
        """Write numbers that are still in memory."""
        if self.writer:
            self.writer.flush()
