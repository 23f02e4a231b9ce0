"""What readers of data sets do about what is wrong in them.

A reader hands each kind of fault that it finds, however many there are, to a function ``report(kind, faulty, describe,
total, remedy="", is_error=True)``, and goes on without the faulty entries if that returns. Training takes
:func:`stop_at_fault`; a check takes :class:`Faults`, which only collects, so that both see the same faults by the same
rules.
"""

import logging
from dataclasses import dataclass, field

from detlite.errors import UserError

logger = logging.getLogger(__name__)


class ImageError(UserError):
    """An image file that cannot be used; DATASETS.BAD_IMAGE says what becomes of it.

    Args:
        message: names the file, and says what is wrong with it.
        kind: what is wrong, as a plural.
    """

    def __init__(self, message, kind="unreadable images"):
        super().__init__(message)
        self.kind = kind  # an attribute, not an argument of UserError: so it also survives pickling


def stop_at_fault(kind, faulty, describe, total, remedy="", is_error=True):
    """Raise the first fault, or, where it is none that stops, log it.

    Args:
        kind: what is wrong, as a plural.
        faulty: a sequence of what is; may be empty.
        describe: one of them -> text that names file, entry and value.
        total: how many there are in all, faulty or not, and of what, such as "860001 boxes".
        remedy: what to do about it.
        is_error: whether it is to stop; if not, the faulty are left out.

    Raises:
        UserError: the first fault, how many there are of its kind, and the remedy.
    """
    if not len(faulty):
        return
    message = f"{describe(faulty[0])}; {len(faulty)} of {total} are of this kind"
    if is_error:
        raise UserError(f"{message}; {remedy}" if remedy else message)
    logger.warning(f"{message}, left out")


@dataclass
class Fault:
    """All faults of one kind.

    Args:
        kind: what is wrong, as a plural.
        is_error: whether training would stop at it.
        count: how many there are.
        examples: what the first of them are.
        remedy: what to do about it.
    """

    kind: str
    is_error: bool
    count: int = 0
    examples: list[str] = field(default_factory=list)
    remedy: str = ""


class Faults(dict):
    """Faults by kind; called as a reader's ``report``, it collects them.

    Args:
        limit: how many of a kind are described; the others are only counted.
    """

    def __init__(self, limit=1000):
        super().__init__()
        self.limit = limit

    def __call__(self, kind, faulty, describe, total="", remedy="", is_error=True):
        """Take in faults; arguments as for :func:`stop_at_fault`."""
        if not len(faulty):
            return
        fault = self.setdefault(kind, Fault(kind, is_error, remedy=remedy))
        fault.count += len(faulty)
        fault.examples += [describe(each) for each in faulty[: self.limit - len(fault.examples)]]
