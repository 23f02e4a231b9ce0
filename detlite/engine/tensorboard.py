"""What a run records, as curves in TensorBoard."""

from pathlib import Path

from detlite.engine import distributed
from detlite.errors import UserError
from detlite.registry import HOOKS


@HOOKS.register()
class TensorBoardHook:
    """Writes every number that metrics.jsonl gets for TensorBoard, too (``pip install detlite[tensorboard]``).

    A resumed run drops what lies behind its checkpoint, so that no step is there twice.

    Args:
        folder: where the files go; relative to the working directory, as OUTPUT_DIR is.
    """

    def __init__(self, trainer, *, folder: str = "output/tensorboard"):
        self.trainer = trainer
        self.folder = Path(folder)
        self.writer = None

    def before_train(self):
        """Open the files, in the main process."""
        if distributed.is_main():
            self.writer = open_writer(self.folder, self.trainer.start + 1)

    def record(self, line):
        """Write a line's numbers as scalars, ``bbox/AP`` for a number in a dict."""
        if self.writer:
            for name, value in flatten(line).items():
                self.writer.add_scalar(name, value, line["step"])

    def after_train(self):
        """Write what is still in memory."""
        if self.writer:
            self.writer.flush()


def open_writer(folder, first_step):
    """torch's SummaryWriter; imported here, as it needs a package that not everybody has.

    Raises:
        UserError: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("HOOKS: TensorBoardHook needs the package tensorboard: pip install tensorboard") from None
    return SummaryWriter(str(folder), purge_step=first_step)


def flatten(values, prefix=""):
    """The numbers in nested dicts, by their path; the step is no number of its own.

    >>> flatten({"step": 3, "loss": 0.5, "bbox": {"AP": 0.25, "APs": None}})
    {'loss': 0.5, 'bbox/AP': 0.25}
    """
    numbers = {}
    for name, value in values.items():
        if isinstance(value, dict):
            numbers |= flatten(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and prefix + name != "step":
            numbers[prefix + name] = value
    return numbers
