"""What a user can get wrong, and how it is said."""

import difflib
import os
import reprlib
from pathlib import Path


class UserError(ValueError):
    """A user's mistake: its one message says what is wrong, where, and what would be right.

    The command-line tools print the message alone and exit with status 1.
    """


def suggest(word, choices):
    """End of a message about an unknown word: the nearest choice, then all of them.

    >>> suggest("MaxIouMatcher", ["MaxIoUMatcher", "ATSSMatcher"])
    '; did you mean MaxIoUMatcher? (there are: ATSSMatcher, MaxIoUMatcher)'
    >>> suggest("x", [])
    ' (there are none)'
    """
    choices = sorted(map(str, choices))
    if not choices:
        return " (there are none)"
    by_lower_case = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(str(word).lower(), by_lower_case, n=1)
    hint = f"; did you mean {by_lower_case[near[0]]}?" if near else ""
    return f"{hint} (there are: {', '.join(choices)})"


def nearest_path(path):
    """End of a message about a path where nothing is: from where on, and what is there that is called much like it.

    >>> nearest_path("/nowhere/data/cells")
    '; there is no /nowhere'
    """
    missing = path = Path(path).absolute()
    if os.path.exists(path):  # of another kind than was expected
        return ""
    while not os.path.exists(missing.parent):  # also False where one may not look
        missing = missing.parent
    try:
        names = os.listdir(missing.parent)
    except OSError:
        names = []
    near = difflib.get_close_matches(missing.name, names, n=1)
    start = "" if missing == path else f"; there is no {missing}"
    return start + (f"; did you mean {missing.parent / near[0]}?" if near else "")


def shortened(value):
    """A config's value as a message shows it: as YAML writes it where Python differs, and cut where it is long.

    >>> shortened([None, True, 0.5, "cat"])
    "[null, true, 0.5, 'cat']"
    >>> shortened(list(range(100)))
    '[0, 1, 2, 3, 4, 5, 6, 7, ...]'
    """
    return _SHORTENER.repr(value)


class _Shortener(reprlib.Repr):
    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxlist, self.maxdict, self.maxstring, self.maxother = 3, 8, 8, 160, 160

    def repr1(self, value, level):
        if value is None or isinstance(value, bool):
            return {None: "null", True: "true", False: "false"}[value]
        for kind in (dict, list, str):  # subclasses, too
            if isinstance(value, kind):
                return getattr(self, f"repr_{kind.__name__}")(value, level)
        return super().repr1(value, level)


_SHORTENER = _Shortener()
