"""Keys and flags of other detectors' tools. The table is foreign.yaml, next to this file."""

import functools
from pathlib import Path

from detlite.config.config import join_path
from detlite.config.yaml import parse_yaml


@functools.cache
def foreign_words():
    """Read the table: {word: sentence about its counterpart}. The first tool with a word counts."""
    path = Path(__file__).with_suffix(".yaml")
    sentences = {}
    for tool, words in parse_yaml(path.read_text(encoding="utf-8"), path).items():
        for word, here in words.items():
            answer = f"is {here} here" if here else "has no counterpart here"
            sentences.setdefault(word, f"{tool}'s {word} {answer}")
    return sentences


def counterpart(path, value=None, is_own=lambda word: False):
    """Return a sentence about a key or flag of another tool, or None if the word is unknown.

    >>> counterpart("SOLVER", {"BASE_LR": 0.02})
    "detectron2's SOLVER.BASE_LR is SOLVER.OPTIMIZER.LR here"

    Args:
        path: the dotted key, or the flag.
        value: the key's value. If it is a section, its first key is looked up.
        is_own: function that checks whether a detlite key has a name. Such a name is not enough to recognize a word.
    """
    while isinstance(value, dict) and value:
        key, value = next(iter(value.items()))
        path = join_path(path, key)
    *sections, last_word = path.split(".")

    # The whole key, then its last word in whatever section, then the sections around it.
    words = foreign_words()
    keys = [path]
    if not is_own(last_word):
        keys += [word for word in words if word.rpartition(".")[2] == last_word]
    keys += [".".join(sections[:depth]) for depth in range(len(sections), 0, -1)]
    return next((words[key] for key in keys if key in words), None)
