"""What the report shows, as plain numbers and texts ready for JSON.

Letters: R detections, K classes, T = 101 thresholds. Counts are kept a class and a threshold, so that the page can add
up any of them.
"""

import numpy as np

from detlite.evaluation.analysis import BACKGROUND, confusion_matrix, interpolate, interpolated_ap, precision_recall
from detlite.evaluation.evaluator import Detections, to_arrays
from detlite.evaluation.matching import match_detections
from detlite.evaluation.mistakes import KINDS
from detlite.inspection.report.error_costs import ERRORS, find_errors, gains
from detlite.inspection.report.gallery import worst_mistakes

THRESHOLDS = np.arange(101) / 100
IOU_THRESHOLD = 0.5
SCORE_THRESHOLD = 0.5  # where the page begins, and that of the confusion matrix
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}  # areas in square pixels, as COCO's
MATRIX_CLASSES = 40  # a larger matrix nobody reads


def report_content(dataset, runs):
    """All that the page shows of one run, or of two on the same data.

    Args:
        dataset: ground truth: ``classes``, ``category_ids``, ``coco()``, and, for the gallery, images by their place.
        runs: list of dicts: "name"; "predictions", a list of COCO results; "scores", what
            :func:`~detlite.evaluation.coco.score_predictions` gave for them; "metrics", {name: [(step, value), ...]}.

    Returns:
        dict of dicts, lists, numbers and texts. Counts of a class are lists of (place in "thresholds", how many score
        at least this and less than the next).
    """
    truth = dataset.coco()
    objects, _ = to_arrays(dataset, [])
    areas = np.array([row.get("area", row["bbox"][2] * row["bbox"][3]) for row in truth["annotations"]], np.float64)
    sizes = np.digitize(areas, [low for low, _ in SIZES.values()]) - 1
    num_classes = len(dataset.classes)
    return {
        "classes": list(dataset.classes),
        "images": len(truth["images"]),
        "iou": IOU_THRESHOLD,
        "score": SCORE_THRESHOLD,
        "thresholds": THRESHOLDS.tolist(),
        "objects": {
            name: np.bincount(objects.labels[(sizes == size) & ~objects.ignored], minlength=num_classes + 1)[
                1:
            ].tolist()
            for size, name in enumerate(SIZES)
        },
        "kinds": {kind: KINDS[kind] for kind in ERRORS} | {"missed": "an object with no detection at or near it"},
        "runs": [_run(dataset, truth, objects, sizes, **run) for run in runs],
    }


def _run(dataset, truth, objects, sizes, name, predictions, scores, metrics):
    num_classes = len(dataset.classes)
    _, detections = to_arrays(dataset, predictions)
    order = np.lexsort((detections.images, -detections.scores))  # of equal scores image by image, as COCO has them
    detections = Detections(*(values[order] for values in detections))
    matches = match_detections(objects, detections, IOU_THRESHOLD)
    errors = find_errors(objects, detections)
    counts = {
        kind: _count(detections.labels[errors.kinds == k], detections.scores[errors.kinds == k], num_classes)
        for k, kind in enumerate(ERRORS)
    }
    right = np.flatnonzero(matches >= 0)
    for size, size_name in enumerate(SIZES):
        chosen = right[sizes[matches[right]] == size]
        counts[size_name] = _count(detections.labels[chosen], detections.scores[chosen], num_classes)
    noticed = ~objects.ignored & np.isfinite(errors.found_at)
    counts["noticed"] = _count(objects.labels[noticed], errors.found_at[noticed], num_classes)
    curves = [precision_recall(objects, detections, matches, label) for label in range(1, num_classes + 1)]
    positives = np.bincount(objects.labels[~objects.ignored], minlength=num_classes + 1)[1:]
    matrix = confusion_matrix(objects, detections, matches, num_classes, SCORE_THRESHOLD, IOU_THRESHOLD)
    return {
        "name": name,
        "detections": len(predictions),
        "scores": {key: value for key, value in scores.items() if key != "per_class"},
        "AP": [scores["per_class"][name] for name in dataset.classes],
        "AP50": [interpolated_ap(curve, count) for curve, count in zip(curves, positives, strict=True)],
        "curves": [
            interpolate(curve).round(4).tolist() if count else None
            for curve, count in zip(curves, positives, strict=True)
        ],
        "counts": counts,
        "gains": gains(objects, detections, matches, errors, num_classes),
        "confusion": _readable(matrix, dataset.classes),
        "mistakes": worst_mistakes(dataset, truth, objects, detections, errors, SCORE_THRESHOLD),
        "metrics": metrics,
    }


def _count(labels, scores, num_classes):
    """How many of each class score from each threshold on, but not from the next: K lists of [threshold, count]."""
    places = np.searchsorted(THRESHOLDS, scores, side="right") - 1
    table = np.zeros((num_classes, len(THRESHOLDS)), np.int64)
    np.add.at(table, (labels[places >= 0] - 1, places[places >= 0]), 1)
    return [[[int(place), int(row[place])] for place in np.flatnonzero(row)] for row in table]


def _readable(matrix, classes):
    """The confusion matrix of the classes with most errors, with their names, in the data set's order."""
    wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    kept = np.sort(1 + np.argsort(-wrong[1:], kind="stable")[:MATRIX_CLASSES])
    kept = np.append(0, kept)
    return {
        "names": [[BACKGROUND, *classes][label] for label in kept],
        "counts": matrix[np.ix_(kept, kept)].tolist(),
    }
