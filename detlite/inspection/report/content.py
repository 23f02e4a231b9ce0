"""The numbers and texts of the report, ready for JSON.

Letters: R detections, K classes, T = 101 thresholds. Detections are counted per class and threshold, so that the page
can add up any of them.
"""

import numpy as np

from detlite.evaluation.analysis import BACKGROUND, confusion_matrix, interpolate, interpolated_ap, precision_recall
from detlite.evaluation.evaluator import select, to_arrays
from detlite.evaluation.matching import match_detections
from detlite.evaluation.mistakes import KINDS
from detlite.inspection.report.error_costs import ERRORS, find_errors, gains
from detlite.inspection.report.gallery import crowded_regions, worst_mistakes

THRESHOLDS = np.arange(101) / 100
IOU_THRESHOLD = 0.5
SCORE_THRESHOLD = 0.5  # of the page at first, and of the confusion matrix
SIZES = {"small": 0, "medium": 32**2, "large": 96**2}  # smallest areas in square pixels, as COCO's
MATRIX_CLASSES = 40  # a larger matrix is unreadable


def report_content(dataset, runs):
    """Return the content of the page for one run, or for two on the same data.

    ``runs`` is a list of dicts: "name"; "predictions", a list of COCO results; "scores", what
    :class:`~detlite.evaluation.coco.CocoEvaluator` gave for them; "metrics", {name: [(step, value), ...]}. Counts of a
    class are lists of (index of a threshold, number of scores from this threshold to the next).
    """
    truth = dataset.coco()
    objects, _ = to_arrays(dataset, [])

    # The objects of each class and size; an annotation without an area has the area of its box.
    areas = np.array([row.get("area", row["bbox"][2] * row["bbox"][3]) for row in truth["annotations"]], np.float64)
    sizes = np.digitize(areas, list(SIZES.values())) - 1
    size_counts = {}
    for size, name in enumerate(SIZES):
        size_counts[name] = _positives(select(objects, sizes == size), len(dataset.classes)).tolist()

    kinds = {kind: KINDS[kind] for kind in ERRORS}
    return {
        "classes": list(dataset.classes),
        "images": len(truth["images"]),
        "iou": IOU_THRESHOLD,
        "score": SCORE_THRESHOLD,
        "thresholds": THRESHOLDS.tolist(),
        "objects": size_counts,
        "kinds": kinds | {"missed": "an object without a detection at or near it"},
        "runs": [_run(dataset, truth, objects, sizes, **run) for run in runs],
    }


def _run(dataset, truth, objects, sizes, name, predictions, scores, metrics):
    """Return the content of one run; ``sizes`` (M,) are indices into SIZES."""
    num_classes = len(dataset.classes)
    scores = dict(scores)
    class_scores = scores.pop("per_class")
    _, detections = to_arrays(dataset, predictions)
    order = np.lexsort((detections.images, -detections.scores))  # equal scores image by image, as in COCO
    detections = select(detections, order)
    matches = match_detections(objects, detections, IOU_THRESHOLD)
    errors = find_errors(objects, detections)

    # Counts of wrong detections by kind, of right ones by their object's size, and of objects that are noticed.
    counts = {}
    for kind, kind_name in enumerate(ERRORS):
        wrong = errors.kinds == kind
        counts[kind_name] = _count(detections.labels[wrong], detections.scores[wrong], num_classes)
    right = np.flatnonzero(matches >= 0)
    for size, size_name in enumerate(SIZES):
        chosen = right[sizes[matches[right]] == size]
        counts[size_name] = _count(detections.labels[chosen], detections.scores[chosen], num_classes)
    noticed = ~objects.ignored & np.isfinite(errors.found_at)
    counts["noticed"] = _count(objects.labels[noticed], errors.found_at[noticed], num_classes)

    # AP at one IoU and the curve of each class; both None for a class without objects.
    ap50, curves = [], []
    for label, count in enumerate(_positives(objects, num_classes), start=1):
        curve = precision_recall(objects, detections, matches, label)
        ap50.append(interpolated_ap(curve, count))
        curves.append(interpolate(curve).round(4).tolist() if count else None)

    matrix = confusion_matrix(objects, detections, matches, num_classes, SCORE_THRESHOLD, IOU_THRESHOLD)
    return {
        "name": name,
        "detections": len(predictions),
        "scores": scores,
        "AP": [class_scores[class_name] for class_name in dataset.classes],
        "AP50": ap50,
        "curves": curves,
        "counts": counts,
        "gains": gains(objects, detections, matches, errors, num_classes),
        "confusion": _largest_rows(matrix, dataset.classes),
        "mistakes": worst_mistakes(dataset, truth, objects, detections, errors, SCORE_THRESHOLD),
        "regions": crowded_regions(dataset, truth, objects, detections, errors, SCORE_THRESHOLD),
        "metrics": metrics,
    }


def _positives(objects, num_classes):
    """Count the objects of each class that are not ignored, (K,)."""
    return np.bincount(objects.labels[~objects.ignored], minlength=num_classes + 1)[1:]


def _count(labels, scores, num_classes):
    """Count scores per class and threshold: K lists of [index of the threshold, count], without zeros."""
    indices = np.searchsorted(THRESHOLDS, scores, side="right") - 1
    table = np.zeros((num_classes, len(THRESHOLDS)), np.int64)
    np.add.at(table, (labels[indices >= 0] - 1, indices[indices >= 0]), 1)
    counts = []
    for row in table:
        filled = np.flatnonzero(row)
        counts.append(np.column_stack([filled, row[filled]]).tolist())
    return counts


def _largest_rows(matrix, classes):
    """Return the confusion matrix of the classes with the most errors, in the data set's order, with their names."""
    wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    kept = np.sort(1 + np.argsort(-wrong[1:], kind="stable")[:MATRIX_CLASSES])
    kept = np.append(0, kept)
    names = np.array([BACKGROUND, *classes], object)[kept]
    return {"names": names.tolist(), "counts": matrix[np.ix_(kept, kept)].tolist()}
