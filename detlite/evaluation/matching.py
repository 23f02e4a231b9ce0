"""Match detections to objects: pure functions on flat arrays, all images at once.

COCO's AP itself is computed by pycocotools, not here. VOC's AP and all other numbers use these functions. The arguments
``objects`` and ``detections`` are Objects and Detections of :mod:`detlite.evaluation.evaluator`.

Letters: M objects, R detections, P pairs of an object and a detection. Boxes are (x, y, width, height).
"""

import numpy as np

UNMATCHED, IGNORED = -1, -2


def overlapping_pairs(objects, detections, same_class=True):
    """Find all overlapping pairs of an object and a detection of the same image.

    If ``same_class``, only pairs with equal labels count.

    Returns:
        rows (P,) int64 into detections, columns (P,) int64 into objects, intersections (P,), unions (P,).
    """
    object_keys, keys = class_keys(objects, detections) if same_class else (objects.images, detections.images)
    rows, columns = pairs_of_equal_keys(keys, object_keys)
    intersections, unions = overlap_areas(detections.boxes[rows], objects.boxes[columns])
    overlap = intersections > 0
    return rows[overlap], columns[overlap], intersections[overlap], unions[overlap]


def overlap_areas(boxes, others):
    """Return intersections (...) and unions (...) of pairs of boxes, (..., 4) each."""
    low = np.maximum(boxes[..., :2], others[..., :2])
    high = np.minimum(boxes[..., :2] + boxes[..., 2:], others[..., :2] + others[..., 2:])
    intersections = (high - low).clip(0).prod(axis=-1)
    return intersections, boxes[..., 2:].prod(axis=-1) + others[..., 2:].prod(axis=-1) - intersections


def class_keys(objects, detections):
    """Return numbers (M,) and (R,) that are equal for equal image and class."""
    factor = 1 + max(objects.labels.max(initial=0), detections.labels.max(initial=0))
    return objects.images * factor + objects.labels, detections.images * factor + detections.labels


def pairs_of_equal_keys(row_keys, column_keys):
    """Find all pairs of a row and a column whose keys are equal, row by row.

    >>> rows, columns = pairs_of_equal_keys(np.array([7, 5, 3]), np.array([3, 7, 3]))
    >>> rows.tolist(), columns.tolist()
    ([0, 2, 2], [1, 0, 2])
    """
    # Each row pairs with counts of the sorted columns, from starts on.
    order = np.argsort(column_keys, kind="stable")
    starts = np.searchsorted(column_keys[order], row_keys, "left")
    counts = np.searchsorted(column_keys[order], row_keys, "right") - starts

    # The k-th pair of a row has column starts + k, where k is the pair's index minus the pairs of earlier rows.
    rows = np.repeat(np.arange(len(row_keys)), counts)
    earlier = np.cumsum(counts) - counts
    return rows, order[np.arange(len(rows)) + np.repeat(starts - earlier, counts)]


def match_greedily(rows, columns):
    """Go through pairs in order and take each whose row and column are still free.

    ``rows`` and ``columns`` are (P,) int64. The indices of the pairs taken are returned in no particular order.

    >>> sorted(match_greedily(np.array([5, 6, 6, 7]), np.array([1, 1, 3, 3])).tolist())
    [0, 2]
    """
    # A loop over the pairs takes every pair that is the first of its row and of its column: no earlier pair can have
    # used either. Two such pairs share neither row nor column, so all of them can be taken at once. The loop skips the
    # other pairs of their rows and columns. The remaining pairs only compete with each other, so the next round is the
    # same problem with fewer pairs. Each round takes at least the first of them.
    taken, left = [], np.arange(len(rows))
    while len(left):
        first_of_row = np.unique(rows[left], return_index=True)[1]
        first_of_column = np.unique(columns[left], return_index=True)[1]
        chosen = left[np.intersect1d(first_of_row, first_of_column)]
        taken.append(chosen)
        left = left[~np.isin(rows[left], rows[chosen]) & ~np.isin(columns[left], columns[chosen])]
    return np.concatenate([np.zeros(0, np.int64), *taken])


def match_detections(objects, detections, iou_threshold, same_class=True):
    """Match as COCO does: best first, each to the free object it overlaps most.

    A match has at least ``iou_threshold`` and, if ``same_class``, equal labels.

    Returns:
        (R,) int64: the index of each detection's object; if it has none, UNMATCHED, or IGNORED if an ignored region
        covers ``iou_threshold`` of its area.
    """
    rows, columns, intersections, unions = overlapping_pairs(objects, detections, same_class)
    threshold = min(iou_threshold, 1 - 1e-10)  # as in pycocotools: at 1, rounding must not lose a perfect box
    matches = np.full(len(detections.scores), UNMATCHED)

    # Any number of detections may be in one ignored region. A match below replaces IGNORED.
    ignored = objects.ignored[columns]
    fractions = intersections / detections.boxes[rows, 2:].prod(axis=1)
    matches[rows[ignored & (fractions >= threshold)]] = IGNORED

    # Sort the other pairs by score and then by IoU. Of two objects with the same IoU, COCO takes the later one.
    ranks = np.empty(len(matches), np.int64)
    ranks[np.argsort(-detections.scores, kind="stable")] = np.arange(len(matches))
    ious = intersections / unions
    pairs = np.flatnonzero(~ignored & (ious >= threshold))
    pairs = pairs[np.lexsort((-columns[pairs], -ious[pairs], ranks[rows[pairs]]))]
    pairs = pairs[match_greedily(rows[pairs], columns[pairs])]
    matches[rows[pairs]] = columns[pairs]
    return matches
