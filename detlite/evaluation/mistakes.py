"""Classify the mistakes of detections (Bolya et al. 2020, TIDE, section 2.2).

Letters: M objects, R detections. Boxes are (x, y, width, height).
"""

import numpy as np

from detlite.evaluation.matching import IGNORED, match_detections, overlapping_pairs

KINDS = {
    "right": "class and place are right",
    "localization": "right class, but the box is not good enough",
    "class": "right place, wrong class",
    "both": "wrong class, and the box is not good enough",
    "duplicate": "an object that a better detection has found",
    "background": "nothing is there",
    "ignored": "in a region that does not count",
}
GOOD_IOU = 0.5  # minimum of a good box with its object
BACKGROUND_IOU = 0.1  # a detection that overlaps every object by a lower IoU is "background"


def kinds_of_mistakes(objects, detections):
    """Classify each detection as one of KINDS.

    Args:
        objects, detections: see :mod:`detlite.evaluation.matching`. All detections count, whatever their score.

    Returns:
        kinds, R names of KINDS; nearest (R,) int64, the object that decided the kind, -1 for background and ignored;
        missed (M,) bool, objects that count, and are not nearest of a "right", "localization" or "class" detection.
    """
    # Find the best object of each detection among the objects of its class, and among all others.
    matches = match_detections(objects, detections, GOOD_IOU)
    rows, columns, intersections, unions = overlapping_pairs(objects, detections, same_class=False)
    ious = intersections / unions
    counted = ~objects.ignored[columns]
    same = objects.labels[columns] == detections.labels[rows]
    own_iou, own_object = _best(rows, columns, ious, counted & same, len(matches))
    other_iou, other_object = _best(rows, columns, ious, counted & ~same, len(matches))

    # In TIDE's order, the first case that holds decides. The loop is reversed, so that the first case is written last.
    right = matches >= 0
    nothing = np.full(len(matches), -1)
    cases = [
        ("right", right, matches),
        ("ignored", matches == IGNORED, nothing),
        ("localization", (own_iou >= BACKGROUND_IOU) & (own_iou < GOOD_IOU), own_object),
        ("class", other_iou >= GOOD_IOU, other_object),
        ("duplicate", own_iou >= GOOD_IOU, own_object),
        ("both", other_iou >= BACKGROUND_IOU, other_object),
    ]
    kinds = np.full(len(matches), "background", object)
    nearest = nothing.copy()
    for kind, condition, case_objects in reversed(cases):
        kinds[condition] = kind
        nearest[condition] = case_objects[condition]

    missed, found = ~objects.ignored, np.isin(kinds, ("right", "localization", "class"))
    missed[nearest[found]] = False
    return kinds.tolist(), nearest, missed


def _best(rows, columns, ious, chosen, count):
    """Return the highest IoU among the chosen pairs of each row, and that pair's column. Rows without pairs: 0, -1."""
    # Write the pairs in ascending order of IoU; so the last one written to a row is its highest.
    order = np.flatnonzero(chosen)
    order = order[np.argsort(ious[order], kind="stable")]
    best, column = np.zeros(count), np.full(count, -1)
    best[rows[order]] = ious[order]
    column[rows[order]] = columns[order]
    return best, column
