"""A table of the weights that were loaded from a file, and of the others."""

import itertools
import re
from dataclasses import dataclass, field

from tabulate import tabulate

from detlite.console import one_line


@dataclass
class LoadReport:
    """The outcome for every name in the file and in the model."""

    heading: str  # the weights, their layout and their pixel statistics
    loaded: dict = field(default_factory=dict)  # {the model's name: number of parameters}
    # {the model's name: (number of parameters, reason)}; these keep the values of the built model
    reinitialized: dict = field(default_factory=dict)
    ignored: dict = field(default_factory=dict)  # {the file's name: (number of parameters, reason)}
    matched: float = 0.0  # fraction of the expected parameters that were loaded
    matched_parts: dict = field(default_factory=dict)  # the same of each part that must be complete

    def rows(self):
        """Return the rows of the table: [outcome, module, tensors, parameters, reason]."""
        loaded = {name: (count, "") for name, count in self.loaded.items()}
        outcomes = {"loaded": loaded, "re-initialized": self.reinitialized, "ignored": self.ignored}
        totals = {}
        for outcome, entries in outcomes.items():
            for name, (count, reason) in entries.items():
                # Reasons that differ only in shapes and names share a row, which shows the first of them.
                kind = re.sub(r"\(.*?\)|\d+", "", reason)
                total = totals.setdefault((outcome, one_line(module_of(name)), kind), [0, 0, reason])
                total[0] += 1
                total[1] += count
        return [[*key[:2], tensors, f"{count:,}", reason] for key, (tensors, count, reason) in totals.items()]

    def __str__(self):
        head = ["", "part", "tensors", "parameters", "why"]
        return f"{self.heading}\n" + tabulate(self.rows(), head, colalign=("left", "left", "right", "right", "left"))


def module_of(name):
    """Return the part of a detector that a tensor belongs to, at most two names deep.

    >>> module_of("backbone.features.0.weight"), module_of("roi_heads.box_head.fc6.bias")
    ('backbone.features', 'roi_heads.box_head')
    """
    modules = itertools.takewhile(lambda module: not module.isdigit(), name.split(".")[:-1])
    return ".".join(itertools.islice(modules, 2)) or name
