"""Faults in the files of a data set, and their treatment.

A reader passes each kind of fault, with all faulty entries, to a function ``report(kind, faulty, describe, total,
remedy="", is_error=True)``. If that function returns, the reader leaves the faulty entries out. Training uses
:func:`stop_at_fault`, a check uses :class:`Faults`, which only collects; so both find the same faults.
"""

import logging
from dataclasses import dataclass, field

from detlite.errors import UserError

logger = logging.getLogger(__name__)


class ImageError(UserError):
    """An image file that cannot be used, where ``kind`` is the kind of the fault, as a plural."""

    def __init__(self, message, kind="unreadable images"):
        super().__init__(message)
        self.kind = kind  # no argument of UserError, and therefore kept by pickling


def stop_at_fault(kind, faulty, describe, total, remedy="", is_error=True):
    """Raise an error for the first fault, or log a warning if ``is_error`` is false.

    Args:
        kind: kind of the fault, as a plural.
        faulty: sequence of the faulty entries; may be empty.
        describe: function from a faulty entry to text that names file, entry and value.
        total: number of all entries, faulty or not, with their name, such as "860001 boxes".
        remedy: advice to the user.
        is_error: whether the fault stops a training; otherwise the faulty entries are left out.

    Raises:
        UserError: the first fault, the number of faulty entries, and the remedy.
    """
    if not len(faulty):
        return
    message = f"{describe(faulty[0])}; {len(faulty)} of {total} are of this kind"
    if is_error:
        raise UserError(f"{message}; {remedy}" if remedy else message)
    logger.warning(f"{message}, left out")


@dataclass
class Fault:
    """All faults of one kind."""

    kind: str  # as a plural
    is_error: bool  # the fault stops a training
    count: int = 0
    examples: list[str] = field(default_factory=list)  # descriptions of the first ones
    remedy: str = ""


class Faults(dict):
    """Faults by kind, collected when this is a reader's ``report``: {kind: :class:`Fault`}.

    Per kind, at most ``limit`` faults are described; all are counted.
    """

    def __init__(self, limit=1000):
        super().__init__()
        self.limit = limit

    def __call__(self, kind, faulty, describe, total="", remedy="", is_error=True):
        """Collect faults; the arguments are explained in :func:`stop_at_fault`."""
        if not len(faulty):
            return
        fault = self.setdefault(kind, Fault(kind, is_error, remedy=remedy))
        fault.count += len(faulty)
        fault.examples += [describe(each) for each in faulty[: self.limit - len(fault.examples)]]
