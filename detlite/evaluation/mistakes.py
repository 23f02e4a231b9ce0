"""What kind of mistake each wrong detection is (Bolya et al. 2020, TIDE, section 2.2).

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


def kinds_of_mistakes(objects, detections, iou_threshold=0.5, background_iou=0.1):
    """Sort detections by what is right or wrong with them.

    Args:
        objects: :class:`~detlite.evaluation.evaluator.Objects`.
        detections: :class:`~detlite.evaluation.evaluator.Detections`, those that score enough to count.
        iou_threshold: a box is good enough if its IoU with the object is at least this.
        background_iou: a detection that overlaps every object less than this is of nothing.

    Returns:
        kinds, R names of KINDS; nearest (R,) int64, the object that each is right or wrong about, -1 for background;
        missed (M,) bool, the objects that no detection found, nor would have with another class or a better box.
    """
    matches = match_detections(objects, detections, iou_threshold)
    rows, columns, intersections, unions = overlapping_pairs(objects, detections, same_class=False)
    counts = ~objects.ignored[columns]
    rows, columns, ious = rows[counts], columns[counts], (intersections / unions)[counts]
    same = objects.labels[columns] == detections.labels[rows]
    (own, own_object), (other, other_object) = (
        _best(rows[which], columns[which], ious[which], len(matches)) for which in (same, ~same)
    )
    right = matches >= 0
    steps = [  # in TIDE's order: the first that holds
        ("right", right, matches),
        ("ignored", matches == IGNORED, np.full(len(matches), -1)),
        ("localization", (own >= background_iou) & (own < iou_threshold), own_object),
        ("class", other >= iou_threshold, other_object),
        ("duplicate", own >= iou_threshold, own_object),
        ("both", other >= background_iou, other_object),
        ("background", np.full(len(matches), True), np.full(len(matches), -1)),
    ]
    kind = np.argmax([holds for _, holds, _ in steps], axis=0)
    kinds = np.array([name for name, _, _ in steps], object)[kind]
    nearest = np.array([objects_ for _, _, objects_ in steps], np.int64)[kind, np.arange(len(matches))]
    missed = ~objects.ignored
    missed[nearest[right | np.isin(kinds, ("localization", "class"))]] = False
    return kinds.tolist(), nearest, missed


def _best(rows, columns, ious, count):
    """The highest IoU of each row, 0 where there is none, and its column, -1 where there is none."""
    order = np.argsort(ious, kind="stable")
    best, column = np.zeros(count), np.full(count, -1)
    best[rows[order]], column[rows[order]] = ious[order], columns[order]  # the last, so the highest, stays
    return best, column
