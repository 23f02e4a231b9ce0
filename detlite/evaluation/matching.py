"""Match detections to objects: pure functions on flat arrays, all images at once.

COCO's AP is not computed from these matches but by pycocotools (:mod:`detlite.evaluation.coco`). VOC's AP, the
analysis, the kinds of mistakes, the proposals' recall and the report use them.

Letters: M objects, R detections, P pairs of an object and a detection. Boxes are (x, y, width, height), float64.
"""

import numpy as np

UNMATCHED, IGNORED = -1, -2


def overlapping_pairs(objects, detections, same_class=True):
    """Find all pairs of an object and a detection of the same image that overlap.

    Args:
        objects: :class:`~detlite.evaluation.evaluator.Objects`.
        detections: :class:`~detlite.evaluation.evaluator.Detections`.
        same_class: whether their labels must be equal.

    Returns:
        rows (P,) int64 into detections, columns (P,) int64 into objects, intersections (P,), unions (P,).
    """
    # A key is an image, or an image and a label.
    object_keys, detection_keys = objects.images, detections.images
    if same_class:
        factor = 1 + max(objects.labels.max(initial=0), detections.labels.max(initial=0))
        object_keys = object_keys * factor + objects.labels
        detection_keys = detection_keys * factor + detections.labels
    rows, columns = pairs_of_equal_keys(detection_keys, object_keys)

    intersections, unions = overlap_areas(detections.boxes[rows], objects.boxes[columns])
    overlap = intersections > 0
    return rows[overlap], columns[overlap], intersections[overlap], unions[overlap]


def overlap_areas(boxes, others):
    """Compute the areas of intersection and union of pairs of boxes.

    Args:
        boxes, others: (..., 4) each.

    Returns:
        intersections (...), unions (...).

    >>> overlap_areas(np.array([[0.0, 0, 4, 2]]), np.array([[2.0, 1, 4, 3]]))
    (array([2.]), array([18.]))
    """
    low = np.maximum(boxes[..., :2], others[..., :2])
    high = np.minimum(boxes[..., :2] + boxes[..., 2:], others[..., :2] + others[..., 2:])
    intersections = (high - low).clip(0).prod(axis=-1)
    return intersections, boxes[..., 2:].prod(axis=-1) + others[..., 2:].prod(axis=-1) - intersections


def pairs_of_equal_keys(row_keys, column_keys):
    """Find all pairs of a row and a column whose keys are equal, row by row.

    >>> rows, columns = pairs_of_equal_keys(np.array([7, 5, 3]), np.array([3, 7, 3]))
    >>> rows.tolist(), columns.tolist()
    ([0, 2, 2], [1, 0, 2])
    """
    # In sorted order, the columns of a row are the slice starts ... starts + counts.
    order = np.argsort(column_keys, kind="stable")
    starts = np.searchsorted(column_keys[order], row_keys, "left")
    counts = np.searchsorted(column_keys[order], row_keys, "right") - starts

    # Position of each pair in its row's slice: its number among all pairs, minus the pairs of earlier rows.
    rows = np.repeat(np.arange(len(row_keys)), counts)
    earlier = np.cumsum(counts) - counts
    return rows, order[np.arange(len(rows)) + np.repeat(starts - earlier, counts)]


def match_greedily(rows, columns):
    """Go through pairs in order and take each whose row and column are still free.

    Args:
        rows, columns: (P,) int64.

    Returns:
        indices of the pairs taken, in no particular order.

    >>> sorted(match_greedily(np.array([5, 5, 6]), np.array([1, 2, 1])).tolist())
    [0]
    >>> sorted(match_greedily(np.array([5, 6, 6, 7]), np.array([1, 1, 3, 3])).tolist())
    [0, 2]
    """
    # A loop over the pairs takes every pair that is the first of its row and the first of its column: no earlier pair
    # can have used either. Two such pairs share neither row nor column, so all of them can be taken at once. The loop
    # then skips the other pairs of these rows and columns, and decides about the rest as if it started with the rest.
    # The first pair left is always such a pair, so each round takes at least one.
    taken, left = [], np.arange(len(rows))
    while len(left):
        first_of_row = np.unique(rows[left], return_index=True)[1]
        first_of_column = np.unique(columns[left], return_index=True)[1]
        chosen = left[np.intersect1d(first_of_row, first_of_column)]
        taken.append(chosen)
        left = left[~np.isin(rows[left], rows[chosen]) & ~np.isin(columns[left], columns[chosen])]
    return np.concatenate([np.zeros(0, np.int64), *taken])


def match_detections(objects, detections, iou_threshold, same_class=True):
    """Match as COCO does: detections, best first, each take the free object they overlap most.

    Args:
        objects, detections: see :func:`overlapping_pairs`.
        iou_threshold: minimum IoU of a match.
        same_class: whether their labels must be equal.

    Returns:
        (R,) int64: the index of each detection's object; UNMATCHED if it has none; IGNORED if it has none and an
        ignored region covers this fraction of its area.
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
