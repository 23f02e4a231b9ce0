"""Faults in the files of a data set.

A reader passes all faulty entries of one kind to a function ``report(kind, faulty, describe, total, remedy="",
is_error=True)``, and leaves them out if it returns. Training uses :func:`stop_at_fault`. A check uses :class:`Faults`,
which only collects; so both find the same faults.
"""

import logging
from dataclasses import dataclass, field

from detlite.errors import UserError

logger = logging.getLogger(__name__)


class ImageError(UserError):
    """An image file that cannot be used, with the kind of fault as a plural."""

    def __init__(self, message: str, kind: str = "unreadable images"):
        super().__init__(message)
        self.kind = kind  # not an argument of UserError, so that pickling keeps it


def stop_at_fault(kind, faulty, describe, total, remedy="", is_error=True):
    """Raise an error for the first fault, or log a warning if ``is_error`` is false.

    Args:
        kind: kind of the fault, as a plural.
        faulty: sequence of the faulty entries; may be empty.
        describe: function from a faulty entry to text that names file, entry and value.
        total: number of all entries, faulty or not, with their name, such as "860001 boxes".
        remedy: advice to the user.
        is_error: whether the fault stops a training; otherwise the faulty entries are left out.
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
    """A ``report`` that collects {kind: Fault}, with at most ``limit`` examples."""

    def __init__(self, limit: int = 1000):
        super().__init__()
        self.limit = limit

    def __call__(
        self, kind: str, faulty: object, describe: object, total: object = "", remedy: str = "", is_error: bool = True
    ) -> None:
        """Collect faults, with the arguments of :func:`stop_at_fault`."""
        if not len(faulty):
            return
        fault = self.setdefault(kind, Fault(kind, is_error, remedy=remedy))
        fault.count += len(faulty)
        fault.examples += [describe(each) for each in faulty[: self.limit - len(fault.examples)]]
