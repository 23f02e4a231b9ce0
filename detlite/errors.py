"""The error for a user's mistake, and the parts of its messages."""

import contextlib
import difflib
import os
import re
import reprlib
from pathlib import Path


class UserError(ValueError):
    """A user's mistake: its message says where, and how to fix it. Commands print it, and return its ``status``."""

    status = 1


class CommandLineError(UserError):
    """A command line that cannot be parsed."""

    status = 2


def explain_error(error):
    """Return a UserError for an error of the system, such as a closed folder, and None for other errors."""
    if isinstance(error, UserError):
        return error
    text = str(error).strip()
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate" in text):
        size = re.search(r"allocate ([\d.]+ ?\w+)", text)
        size = f" to allocate {size[1]}" if size else ""
        return UserError(f"not enough memory{size}; smaller images, batches and parts need less")
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        return UserError(f"{text}; fewer workers need less memory")
    if isinstance(error, OSError):
        reason = error.strerror or text.split("\n")[-1] or type(error).__name__  # a worker's error ends in its reason
        return UserError(f"{error.filename}: {reason}" if error.filename else reason)
    return None


@contextlib.contextmanager
def prefix_errors(prefix):
    """Put a prefix before the message of a UserError raised in the block."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{prefix}{error}") from None


def require(fits, rule, *given):
    """Raise a ValueError with the rule and the given values, unless the values fit.

    >>> require(0 <= 2 <= 1, "need 0 <= low <= high", 2, 1)
    Traceback (most recent call last):
    ValueError: need 0 <= low <= high, got 2 and 1
    """
    if not fits:
        *first, last = map(str, given)
        words = [", ".join(first), last] if first else [last]
        raise ValueError(f"{rule}, got {' and '.join(words)}")


def suggest(word, choices):
    """End a message about an unknown word with the nearest choice and all choices.

    >>> suggest("MaxIouMatcher", ["MaxIoUMatcher", "ATSSMatcher"])
    '; did you mean MaxIoUMatcher? (there are: ATSSMatcher, MaxIoUMatcher)'
    """
    choices = sorted(map(str, choices))
    if not choices:
        return " (there are none)"
    by_lower_case = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(str(word).lower(), by_lower_case, n=1)
    hint = f"; did you mean {by_lower_case[near[0]]}?" if near else ""
    return f"{hint} (there are: {', '.join(choices)})"


def nearest_path(path):
    """End a message about a missing path: the first missing folder, a similar name."""
    missing = path = Path(path).absolute()
    if os.path.exists(path):  # but not of the expected kind
        return ""
    if os.path.islink(path):  # also False for a name that is too long
        return f"; it is a link to {os.readlink(path)}, which leads nowhere"
    while not os.path.exists(missing.parent):  # also False without permission to look
        missing = missing.parent
    try:
        siblings = os.listdir(missing.parent)
    except OSError:
        siblings = []
    near = difflib.get_close_matches(missing.name, siblings, n=1)
    message = f"; there is no {missing}" if missing != path else ""
    return f"{message}; did you mean {missing.parent / near[0]}?" if near else message


def shortened(value):
    """Format a config's value for a message: in YAML's words, and cut if it is long.

    >>> shortened([None, True, *range(100)])
    '[null, true, 0, 1, 2, 3, 4, 5, ...]'
    """
    return _SHORTENER.repr(value)


class _Shortener(reprlib.Repr):
    def repr1(self, value, level):
        if value is None or isinstance(value, bool):
            return {None: "null", True: "true", False: "false"}[value]
        for kind in (dict, list, str):  # reprlib knows these classes by name, not their subclasses
            if isinstance(value, kind):
                return getattr(self, f"repr_{kind.__name__}")(value, level)
        return super().repr1(value, level)


_SHORTENER = _Shortener()
_SHORTENER.maxlevel, _SHORTENER.maxlist, _SHORTENER.maxdict = 3, 8, 8
_SHORTENER.maxstring = _SHORTENER.maxother = 160
