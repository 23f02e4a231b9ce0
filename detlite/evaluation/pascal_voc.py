"""Pascal VOC's mean average precision (Everingham et al. 2010, section 4.2; the development kit's VOCevaldet.m).

Letters: M objects, R detections, K classes. VOC's boxes count pixels from 1 and hold their last pixel, so that the kit
adds 1 to x1 and y1 of ours, and then takes xmax - xmin + 1 for the width: that is x2 - x1 again, and the IoU is the
plain one.
"""

from typing import Literal

import numpy as np
from tabulate import tabulate

from detlite.evaluation.evaluator import Evaluator, to_arrays
from detlite.evaluation.matching import overlapping_pairs
from detlite.registry import EVALUATORS


@EVALUATORS.register()
class PascalVOCEvaluator(Evaluator):
    """VOC's AP of every class and their mean, at 11 points and by area.

    A detection is judged by the one object of its class that it overlaps most: right if it is the best scoring one
    there, wrong if it is not or overlaps too little, and left out of the count if the object is difficult.

    Args:
        iou_threshold: a detection is right if its IoU with an object is at least this.
        metric: which AP the results call AP, of all and of each class: the mean of the precisions at 11 points, as in
            VOC2007, or the area under the curve, as from VOC2010 on.
    """

    def __init__(self, dataset, *, iou_threshold: float = 0.5, metric: Literal["11 points", "area"] = "11 points"):
        if not 0 < iou_threshold <= 1:
            raise ValueError(f"iou_threshold: expected a number above 0 and up to 1, got {iou_threshold}")
        super().__init__(dataset)
        self.iou_threshold = iou_threshold
        self.metric = metric

    def score(self):
        """VOC's numbers.

        Returns:
            {"voc": {"AP", "AP11", "APArea", "per_class": {name: AP}}}; a class without objects (or with difficult ones
            alone) has None and no part in the means.
        """
        objects, detections = to_arrays(self.dataset, self.predictions())
        per_class = voc_average_precisions(objects, detections, len(self.dataset.classes), self.iou_threshold)
        means = [
            float(np.mean([pair[column] for pair in per_class if pair])) if any(per_class) else None
            for column in (0, 1)
        ]
        chosen = ("11 points", "area").index(self.metric)
        names = zip(self.dataset.classes, per_class, strict=True)
        return {
            "voc": {
                "AP": means[chosen],
                "AP11": means[0],
                "APArea": means[1],
                "per_class": {name: pair and pair[chosen] for name, pair in names},
            }
        }

    def summary(self):
        """The results as text."""
        scores = self.evaluate()["voc"]
        rows = [("mean, 11 points", scores["AP11"]), ("mean, area", scores["APArea"]), *scores["per_class"].items()]
        cells = [(name, "n/a" if score is None else f"{score:.3f}") for name, score in rows]
        headings = ("class", f"VOC AP ({self.metric}, IoU {self.iou_threshold:g})")
        return tabulate(cells, headings, disable_numparse=True, colalign=("left", "right"))


def voc_average_precisions(objects, detections, num_classes, iou_threshold):
    """VOC's AP of each class.

    Args:
        objects: :class:`~detlite.evaluation.evaluator.Objects`; the ignored ones are the difficult ones.
        detections: :class:`~detlite.evaluation.evaluator.Detections`.
        num_classes: K.
        iou_threshold: least IoU of a right detection.

    Returns:
        list of K: (AP at 11 points, AP by area), or None for a class without objects.
    """
    verdicts = _judge(objects, detections, iou_threshold)
    order = np.argsort(-detections.scores, kind="stable")
    order = order[verdicts[order] >= 0]
    labels, right = detections.labels[order], verdicts[order] == 1
    positives = np.bincount(objects.labels[~objects.ignored], minlength=num_classes + 1)
    return [
        average_precisions(right[labels == label], positives[label]) if positives[label] else None
        for label in range(1, num_classes + 1)
    ]


def average_precisions(right, positives):
    """VOC's AP from a ranking.

    Args:
        right: (R,) bool, whether each detection, best first, is right.
        positives: number of objects, at least 1.

    Returns:
        at 11 points: the mean of the best precisions at a recall of at least 0, 0.1, ... 1; by area: the area under
        the curve of the best precision at a recall of at least r.

    >>> average_precisions(np.array([True, False, True]), 2)  # (6 * 1 + 5 * 2/3) / 11, 1/2 * 1 + 1/2 * 2/3
    (0.848..., 0.833...)
    """
    found = np.cumsum(right)
    precision = found / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or more
    # Whole numbers, because 0.1 * 3 > 3 / 10 in floats.
    reached = [best[10 * found >= point * positives][:1].sum() for point in range(11)]
    return float(np.mean(reached)), float(best[right].sum() / positives)


def _judge(objects, detections, iou_threshold):
    """(R,) int: 1 right, 0 wrong, -1 on a difficult object."""
    rows, columns, intersections, unions = overlapping_pairs(objects, detections)
    ious = intersections / unions
    most = np.lexsort((columns, -ious, rows))
    most = most[np.unique(rows[most], return_index=True)[1]]  # of each detection the object it overlaps most
    most = most[ious[most] >= iou_threshold]
    rows, columns = rows[most], columns[most]
    verdicts = np.zeros(len(detections.scores), int)
    difficult = objects.ignored[columns]
    verdicts[rows[difficult]] = -1
    rows, columns = rows[~difficult], columns[~difficult]
    best_first = np.argsort(-detections.scores[rows], kind="stable")
    verdicts[rows[best_first[np.unique(columns[best_first], return_index=True)[1]]]] = 1
    return verdicts
