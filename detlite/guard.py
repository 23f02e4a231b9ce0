"""Name the part in which a run failed, and check the first result of each part.

A registry notes on each part that it builds where the config names it. So an error's traceback shows in which part it
arose, and a profile function, which Python calls at the begin and end of each function, sees the parts' results. Parts
themselves are not wrapped. Outside :func:`checking_parts` there is no cost.
"""

import contextlib
import inspect
import itertools
import logging
import sys
import traceback
from pathlib import Path

import torch

from detlite.contracts import CONTRACTS, Output
from detlite.description import describe
from detlite.errors import UserError
from detlite.parts import ORIGIN, Registry
from detlite.signals import EndedBySignal

logger = logging.getLogger("detlite")

CALLS = ("__call__", "forward")  # methods that are the call of the part itself
METHODS = {*CALLS, *itertools.chain.from_iterable(CONTRACTS.values())}
LONGEST = 300  # characters of a reason in a message


class PartError(UserError):
    """A part raised an error, or its result breaks the contract of its slot."""


def part_error(error):
    """Return a PartError that names the part in whose call an error arose. The traceback is in log.txt.

    Other UserErrors and the ends by signals are no faults of a part: the result is None, as without any part.
    """
    if isinstance(error, PartError):
        return error
    if isinstance(error, (UserError, KeyboardInterrupt, EndedBySignal)):
        return None
    cause = error
    while cause is not None:
        # The innermost part is the one to name.
        for frame, line in reversed(list(traceback.walk_tb(cause.__traceback__))):
            name = _part_of(frame)
            if name:
                logger.debug("%s failed", name, exc_info=error)
                place = f"{Path(frame.f_code.co_filename).name}:{line}"
                named = PartError(f"{name} {_reason(cause)} ({place}; --debug shows more)")
                named.__cause__ = error
                return named
        cause = cause.__cause__ or cause.__context__
    return None


def _part_of(frame):
    """Return the path and class of the part that a frame calls or builds, or None."""
    code = frame.f_code
    if code is Registry.build.__code__:
        return frame.f_locals.get("where")
    if code.co_varnames[:1] != ("self",):  # a function that receives a part is not in the part
        return None
    origin = _origin(frame.f_locals.get("self"))
    return origin and origin.where


def _origin(part):
    """Return the Origin that a registry noted on a part, or None."""
    values = getattr(part, "__dict__", None)
    return values.get(ORIGIN) if isinstance(values, dict) else None


def _reason(error):
    if isinstance(error, SystemExit):
        return f"called sys.exit({'' if error.code is None else repr(error.code)})"
    text = str(error).strip().partition("\n")[0][:LONGEST]
    return f"raised {type(error).__name__}: {text}" if text else f"raised {type(error).__name__}"


@contextlib.contextmanager
def checking_parts(is_first=True):
    """Check the first result of each part in the block, in this thread, against its slot's contract.

    If ``is_first`` is false or another profiler is running, nothing is checked. A PartError, raised at the end of the
    block, replaces an error that arose later than the fault.
    """
    if not is_first or sys.getprofile() is not None:
        yield
        return
    watch = _Watch()
    sys.setprofile(watch)
    try:
        yield
    except Exception as error:
        # Parts in which the error arose have returned nothing.
        watch.raise_first({frame for frame, _ in traceback.walk_tb(error.__traceback__)}, error)
        raise
    finally:
        sys.setprofile(None)
    watch.raise_first()


class _Watch:
    """A profile function that collects the faults of the parts' first results."""

    def __init__(self):
        self.checked = set()  # (id of a part, method)
        self.calls = {}  # {frame: (Result, check, arguments, [(number of an argument, tensor, its version)])}
        self.faults = []  # (frame, PartError)

    def __call__(self, frame, event, result):
        if event == "call" and frame.f_code.co_name in METHODS and frame.f_code.co_argcount:
            self._begin(frame)
        elif event == "return" and frame in self.calls:
            self._end(frame, result)

    def raise_first(self, failed=(), cause=None):
        """Raise the first fault of a call that did not fail itself."""
        faults = [fault for frame, fault in self.faults if frame not in failed]
        self.faults.clear()
        if faults:
            raise faults[0] from cause

    def _begin(self, frame):
        """Note the arguments of a part's first call."""
        code = frame.f_code
        method = "call" if code.co_name in CALLS else code.co_name
        names, rest, keywords, values = inspect.getargvalues(frame)
        part = values.get(names[0])
        origin = _origin(part)
        check = origin and CONTRACTS.get(origin.slot, {}).get(method)
        if not check or (id(part), method) in self.checked:
            return

        # A subclass's method may call this one with other arguments, and change its result.
        if getattr(inspect.unwrap(getattr(type(part), code.co_name)), "__code__", None) is not code:
            return
        self.checked.add((id(part), method))
        given = [*map(values.get, names[1:]), *values.get(rest, ()), *values.get(keywords, {}).values()]
        versions = []
        for number, value in enumerate(given, start=1):
            versions += [(number, tensor, tensor._version) for tensor in _tensors_in(value)]
        self.calls[frame] = _Result(part, origin), check, given, versions

    def _end(self, frame, result):
        """Check the result of a call."""
        output, check, given, versions = self.calls.pop(frame)
        try:
            for number, tensor, version in versions:
                if tensor._version != version:
                    raise PartError(f"{output.where} changed argument {number} in place; expected unchanged arguments")
            check(output, result, *given)
        except PartError as error:
            self.faults.append((frame, error))
        except Exception as error:  # a result so unusual that the check failed
            fault = PartError(f"{output.where} returned {output.shown(result)}, which breaks its contract: {error}")
            self.faults.append((frame, fault))


class _Result(Output):
    """The result of a part in a run."""

    def __init__(self, part, origin):
        self.part, self.where, self.context = part, origin.where, origin.context

    def require(self, condition, expected, got):
        """Raise a PartError with the expected and actual result if a condition is false."""
        if not condition:
            raise PartError(f"{self.where} returned {self.shown(got)}; expected {expected}")

    @staticmethod
    def shown(value):
        """Describe a value, shortened."""
        text = value if isinstance(value, str) else describe(value)
        return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def _tensors_in(value):
    """Return the tensors of an argument that count their changes."""
    if isinstance(value, torch.Tensor):
        return [] if value.is_inference() else [value]
    items = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list, tuple)):
        return []
    return list(itertools.chain.from_iterable(map(_tensors_in, items)))
