"""What a user can get wrong, and how it is said."""

import difflib


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
