"""What became of the weights of a file, as one table."""

import itertools
import re
from dataclasses import dataclass, field

from tabulate import tabulate


@dataclass
class LoadReport:
    """What became of every name, in the file and in the model.

    Args:
        heading: which weights, and what is known of them.
        loaded: {the model's name: its parameters}.
        reinitialized: {the model's name: (its parameters, why)}; these keep the values that they were built with.
        ignored: {the file's name: (its parameters, why)}.
        matched: share of the parameters that were expected from the file, and loaded.
    """

    heading: str
    loaded: dict = field(default_factory=dict)
    reinitialized: dict = field(default_factory=dict)
    ignored: dict = field(default_factory=dict)
    matched: float = 0.0

    def rows(self):
        """[outcome, module, tensors, parameters, why]: one for what became of one module for one reason."""
        outcomes = (
            ("loaded", {name: (count, "") for name, count in self.loaded.items()}),
            ("re-initialized", self.reinitialized),
            ("ignored", self.ignored),
        )
        rows = {}
        for outcome, entries in outcomes:
            for name, (count, why) in entries.items():
                row = rows.setdefault((outcome, module_of(name), _kind(why)), [0, 0, why])
                row[0] += 1
                row[1] += count
        return [[*key[:2], tensors, f"{count:,}", why] for key, (tensors, count, why) in rows.items()]

    def __str__(self):
        head = ["", "part", "tensors", "parameters", "why"]
        return f"{self.heading}\n" + tabulate(self.rows(), head, colalign=("left", "left", "right", "right", "left"))


def module_of(name):
    """The part of a detector that a tensor belongs to, coarse enough for a table.

    >>> module_of("backbone.features.0.weight"), module_of("roi_heads.box_head.fc6.bias")
    ('backbone.features', 'roi_heads.box_head')
    """
    modules = itertools.takewhile(lambda module: not module.isdigit(), name.split(".")[:-1])
    return ".".join(itertools.islice(modules, 2)) or name


def _kind(why):
    """Reasons that differ only in their shapes and names are one row, which shows the first."""
    return re.sub(r"\(.*?\)|\d+", "", why)
