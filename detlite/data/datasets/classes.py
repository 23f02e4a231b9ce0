"""Selection of a data set's classes: their order, names and merges, and the objects of all other classes."""

import logging
from typing import Literal

import numpy as np

from detlite.errors import UserError, suggest

logger = logging.getLogger(__name__)

Classes = list[str | dict[str, list[str]]]
OtherClasses = Literal["error", "drop", "ignore"]
IGNORED, DROPPED = 0, -1  # labels of objects of other classes


def select_classes(annotations, entries, other_classes, report):
    """Select classes, and log the number of objects that are renamed, dropped or ignored.

    Args:
        annotations: :class:`~detlite.data.datasets.base.Annotations`, whose labels are for its ``names``.
        entries: CLASSES, each a name or ``{name: [names in the files]}``; empty for all names in the files.
        other_classes: what becomes of objects of other classes: "error", "drop" or "ignore".
        report: see :mod:`detlite.data.faults`.

    Returns:
        classes: K names.
        category_ids: the COCO id of each class; a merged class has the id of its first member.
        labels: (B,) int64, the label of each box, 1 ... K, IGNORED or DROPPED.
    """
    names, key = annotations.names, annotations.classes_key
    ids = dict(zip(names, annotations.name_ids or (), strict=False))
    merges = read_entries(entries, key) if entries else {name: [name] for name in names}
    classes = list(merges)
    label_of = {member: label for label, name in enumerate(classes, start=1) for member in merges[name]}
    for name in label_of:
        if name not in names:
            message = f"{key}: {annotations.source} has no class {name!r}{suggest(name, names)}"
            if annotations.lists_names:
                raise UserError(message)
            if other_classes != "error":  # otherwise the objects of a misspelled class are errors
                logger.warning(message)

    # Convert the labels. No box has label 0 yet.
    other = IGNORED if other_classes == "ignore" else DROPPED
    new_labels = np.array([other, *(label_of.get(name, other) for name in names)], np.int64)
    labels = new_labels[annotations.labels]
    if other_classes == "error":

        def describe(index):
            name = names[annotations.labels[index] - 1]
            return f"{annotations.describe(index)}, of the class {name!r}, not in {key}{suggest(name, label_of)}"

        remedy = f"correct the file, add the name to {key}, or set OTHER_CLASSES to drop or ignore"
        unknown = np.flatnonzero(labels == other)
        report("annotations of unknown categories", unknown, describe, f"{len(labels)} objects", remedy)

    # Log the objects whose class changes.
    counts = np.bincount(annotations.labels, minlength=len(names) + 1).tolist()
    changes = []
    for name, label, count in zip(names, new_labels[1:], counts[1:], strict=True):
        new_name = classes[label - 1] if label > 0 else {IGNORED: "ignored", DROPPED: "dropped"}[label]
        if new_name != name and count:
            changes.append(f"{name} -> {new_name} ({count:,} objects)")
    if changes:
        logger.info("%s: classes: %s", annotations.source, ", ".join(changes))
    category_ids = [ids.get(merges[name][0], label) for label, name in enumerate(classes, start=1)]
    return classes, category_ids, labels


def read_entries(entries, key):
    """Return {class: [its names in the files]} of CLASSES, or raise a ValueError.

    >>> read_entries(["dog", {"vehicle": ["car", "bus"]}], "CLASSES")
    {'dog': ['dog'], 'vehicle': ['car', 'bus']}
    """
    classes, members = [], []
    for entry in entries:
        merge = {entry: [entry]} if isinstance(entry, str) else entry
        if len(merge) != 1 or not all(merge.values()):
            raise ValueError(f"{key}: expected a name or one merge such as {{vehicle: [car, bus]}}, got {entry}")
        classes += merge
        members += merge.values()
    for values in (classes, sum(members, [])):
        repeated = [value for index, value in enumerate(values) if value in values[:index]]
        if repeated:
            raise ValueError(f"{key}: expected different names, got {repeated[0]!r} twice")
    return dict(zip(classes, members, strict=True))
