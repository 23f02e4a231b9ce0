"""Which detection found which object: pure functions on flat arrays, all images at once.

Letters: M objects, R detections, P pairs of one each. Boxes are (x, y, width, height), float64.
"""

import numpy as np

UNMATCHED, IGNORED = -1, -2


def overlapping_pairs(objects, detections, same_class=True):
    """All pairs of an object and a detection of one image that overlap.

    Args:
        objects: :class:`~detlite.evaluation.evaluator.Objects`.
        detections: :class:`~detlite.evaluation.evaluator.Detections`.
        same_class: whether their labels must be equal, too.

    Returns:
        rows (P,) int64 into detections, columns (P,) int64 into objects, intersections (P,), unions (P,).
    """
    object_keys, detection_keys = objects.images, detections.images
    if same_class:
        factor = 1 + max(objects.labels.max(initial=0), detections.labels.max(initial=0))
        object_keys = object_keys * factor + objects.labels
        detection_keys = detection_keys * factor + detections.labels
    rows, columns = pairs_of_equal_keys(detection_keys, object_keys)
    ours, theirs = detections.boxes[rows], objects.boxes[columns]
    low = np.maximum(ours[:, :2], theirs[:, :2])
    high = np.minimum(ours[:, 2:] + ours[:, :2], theirs[:, 2:] + theirs[:, :2])
    touch = (high > low).all(axis=1)
    rows, columns, ours, theirs = rows[touch], columns[touch], ours[touch], theirs[touch]
    intersections = (high - low)[touch].prod(axis=1)
    return rows, columns, intersections, ours[:, 2:].prod(axis=1) + theirs[:, 2:].prod(axis=1) - intersections


def pairs_of_equal_keys(row_keys, column_keys):
    """All pairs of a row and a column whose keys are equal, row by row.

    >>> rows, columns = pairs_of_equal_keys(np.array([7, 5, 3]), np.array([3, 7, 3]))
    >>> rows.tolist(), columns.tolist()
    ([0, 2, 2], [1, 0, 2])
    """
    order = np.argsort(column_keys, kind="stable")
    starts = np.searchsorted(column_keys[order], row_keys, "left")
    counts = np.searchsorted(column_keys[order], row_keys, "right") - starts
    rows = np.repeat(np.arange(len(row_keys)), counts)
    return rows, order[np.arange(len(rows)) + np.repeat(starts - np.cumsum(counts) + counts, counts)]


def match_greedily(rows, columns):
    """Go through pairs in their order and take each whose row and column are both still free.

    Args:
        rows, columns: (P,) int64.

    Returns:
        the places of the taken pairs, in no particular order.

    >>> sorted(match_greedily(np.array([5, 5, 6]), np.array([1, 2, 1])).tolist())
    [0]
    >>> sorted(match_greedily(np.array([5, 6, 6, 7]), np.array([1, 1, 3, 3])).tolist())
    [0, 2]
    """
    taken, left = [], np.arange(len(rows))
    while len(left):  # what comes first for its row and for its column, all such pairs at once
        first_of_row = np.unique(rows[left], return_index=True)[1]
        first_of_column = np.unique(columns[left], return_index=True)[1]
        chosen = left[np.intersect1d(first_of_row, first_of_column)]
        taken.append(chosen)
        left = left[~np.isin(rows[left], rows[chosen]) & ~np.isin(columns[left], columns[chosen])]
    return np.concatenate([np.zeros(0, np.int64), *taken])


def match_detections(objects, detections, iou_threshold, same_class=True):
    """Match as COCO does: detections, best first, each take the free object that they overlap most.

    Args:
        objects, detections: see :func:`overlapping_pairs`.
        iou_threshold: a detection is right if its IoU with the object is at least this.
        same_class: whether their labels must be equal.

    Returns:
        (R,) int64: the object of each detection; UNMATCHED, or IGNORED for what takes none and lies in an ignored
        region by this share of its own area.
    """
    rows, columns, intersections, unions = overlapping_pairs(objects, detections, same_class)
    threshold = min(iou_threshold, 1 - 1e-10)
    matches = np.full(len(detections.scores), UNMATCHED)
    ignored = objects.ignored[columns]
    ious = intersections / unions
    shares = intersections / detections.boxes[rows, 2:].prod(axis=1)
    matches[rows[ignored & (shares >= threshold)]] = IGNORED
    ranks = np.empty(len(matches), np.int64)
    ranks[np.argsort(-detections.scores, kind="stable")] = np.arange(len(matches))
    pairs = np.flatnonzero(~ignored & (ious >= threshold))
    # Of two objects that a detection overlaps alike COCO takes the later one.
    pairs = pairs[np.lexsort((-columns[pairs], -ious[pairs], ranks[rows[pairs]]))]
    pairs = pairs[match_greedily(rows[pairs], columns[pairs])]
    matches[rows[pairs]] = columns[pairs]
    return matches
