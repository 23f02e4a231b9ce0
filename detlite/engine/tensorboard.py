"""What a run records, as curves in TensorBoard."""

from detlite import distributed
from detlite.errors import UserError
from detlite.registry import HOOKS


@HOOKS.register()
class TensorBoardHook:
    """Writes every number that metrics.jsonl gets to OUTPUT_DIR/tensorboard, too: ``pip install detlite[tensorboard]``.

    Where a run is resumed, TensorBoard is told to drop what lies behind its checkpoint, so that no step is there twice.
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
        """Write what is still in memory."""
        if self.writer:
            self.writer.flush()


def open_writer(folder, start):
    """torch's SummaryWriter; imported here, as it needs a package that not everybody has.

    Args:
        folder: where the files go.
        start: the step that is gone on from; later ones are dropped.

    Raises:
        UserError: the package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("HOOKS: TensorBoardHook needs the package tensorboard: pip install tensorboard") from None
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None)


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
