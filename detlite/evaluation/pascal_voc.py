"""Compute Pascal VOC's mean average precision (Everingham et al. 2010, sec. 4.2).

The rules are the development kit's (VOCevaldet.m). Its boxes count pixels from 1 and include their last pixel: xmin is
our x1 + 1 and xmax our x2. So its width, xmax - xmin + 1, is our x2 - x1, and its IoU is the plain one.
Letters: M objects, R detections, K classes.
"""

from typing import Any, Literal

import numpy as np

from detlite.errors import require
from detlite.evaluation.evaluator import Evaluator, format_table, mean_of_defined, to_arrays
from detlite.evaluation.matching import overlapping_pairs
from detlite.registry import EVALUATORS


@EVALUATORS.register()
class PascalVOCEvaluator(Evaluator):
    """VOC's AP of every class and their mean, at 11 points and by area.

    A detection is judged by the one object of its class that it overlaps most. It is right if it is the best scoring
    one there, wrong if it is not or overlaps too little, and not counted if the object is difficult.

    Args:
        iou_threshold: minimum IoU of a correct detection with its object.
        metric: definition of AP in the results, overall and per class: the mean of the precisions at 11 points, as in
            VOC2007, or the area under the curve, as from VOC2010 on.
    """

    def __init__(self, dataset: Any, *, iou_threshold: float = 0.5, metric: Literal["11 points", "area"] = "11 points"):
        require(0 < iou_threshold <= 1, "iou_threshold: expected a number above 0 and up to 1", iou_threshold)
        super().__init__(dataset)
        self.iou_threshold = iou_threshold
        self.metric = metric

    def score(self) -> dict:
        """Compute VOC's numbers.

        Returns:
            {"voc": {"AP", "AP11", "APArea", "per_class": {name: AP}}}; a class without objects, or with only difficult
            ones, has None and does not count in the means.
        """
        objects, detections = to_arrays(self.dataset, self.predictions())
        classes = self.dataset.classes
        at_points, areas = voc_average_precisions(objects, detections, len(classes), self.iou_threshold)
        chosen = {"11 points": at_points, "area": areas}[self.metric]
        means = {"AP": mean_of_defined(chosen), "AP11": mean_of_defined(at_points), "APArea": mean_of_defined(areas)}
        return {"voc": means | {"per_class": dict(zip(classes, chosen, strict=True))}}

    def summary(self) -> str:
        """Format the results as text."""
        scores = self.evaluate()["voc"]
        rows = [("mean, 11 points", scores["AP11"]), ("mean, area", scores["APArea"]), *scores["per_class"].items()]
        return format_table(["class", f"VOC AP ({self.metric}, IoU {self.iou_threshold:g})"], rows)


def voc_average_precisions(objects, detections, num_classes, iou_threshold):
    """Compute VOC's AP of each class. Ignored objects are VOC's difficult ones.

    Two lists of K are returned, the APs at 11 points and the APs by area; None for a class without objects.
    """
    # Rank the detections, best first, without those on difficult objects.
    verdicts = _judge(objects, detections, iou_threshold)
    order = np.argsort(-detections.scores, kind="stable")
    order = order[verdicts[order] >= 0]
    labels, right = detections.labels[order], verdicts[order] == 1
    positives = np.bincount(objects.labels[~objects.ignored], minlength=num_classes + 1)

    at_points, areas = [None] * num_classes, [None] * num_classes
    for k in range(num_classes):
        if positives[k + 1]:
            at_points[k], areas[k] = average_precisions(right[labels == k + 1], positives[k + 1])
    return at_points, areas


def average_precisions(right, positives):
    """Compute VOC's AP from a ranking.

    ``right`` (R,) bool says which detections, best first, are right; ``positives`` >= 1 is the number of objects.

    Returns:
        at 11 points: the mean of the best precisions at a recall of at least 0, 0.1, ... 1; by area: the area under
        the curve of the best precision at a recall of at least r.

    >>> average_precisions(np.array([True, False, True]), 2)  # (6 * 1 + 5 * 2/3) / 11, 1/2 * 1 + 1/2 * 2/3
    (0.848..., 0.833...)
    """
    found = np.cumsum(right)
    precision = found / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or more

    # Recalls are compared as integers, because 0.1 * 3 > 3 / 10 in floats. A recall that is never reached counts 0.
    at_points = [best[10 * found >= point * positives][:1].sum() for point in range(11)]
    return float(np.mean(at_points)), float(best[right].sum() / positives)


def _judge(objects, detections, iou_threshold):
    """Return (R,) int: 1 right, 0 wrong, -1 on a difficult object."""
    rows, columns, intersections, unions = overlapping_pairs(objects, detections)
    ious = intersections / unions

    # Keep each detection's pair with the object it overlaps most; of equal ones the first, as in the kit.
    most = np.lexsort((columns, -ious, rows))
    most = most[np.unique(rows[most], return_index=True)[1]]
    most = most[ious[most] >= iou_threshold]
    rows, columns = rows[most], columns[most]

    verdicts = np.zeros(len(detections.scores), int)
    difficult = objects.ignored[columns]
    verdicts[rows[difficult]] = -1

    # Of an object's detections, the best scoring one is right.
    rows, columns = rows[~difficult], columns[~difficult]
    best_first = np.argsort(-detections.scores[rows], kind="stable")
    first_of_object = np.unique(columns[best_first], return_index=True)[1]
    verdicts[rows[best_first[first_of_object]]] = 1
    return verdicts
