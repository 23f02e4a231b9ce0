"""What a detector gets right and wrong, beyond AP: precision, recall and F1, confusions, proposal recall.

Letters: M objects, R detections, K classes. Boxes are (x, y, width, height) in pixels of the image file.
"""

import numpy as np
from tabulate import tabulate

from detlite.evaluation.evaluator import Detections, Evaluator, Objects, to_arrays
from detlite.evaluation.matching import IGNORED, UNMATCHED, match_detections
from detlite.evaluation.proposal_recall import PROPOSAL_COUNTS, proposal_recall
from detlite.registry import EVALUATORS

RECALLS = np.linspace(0, 1, 101)
BACKGROUND = "background"


@EVALUATORS.register()
class DetectionAnalysis(Evaluator):
    """Precision, recall and F1 of every class, the confusion matrix, precision-recall points and proposal recall.

    Detections are matched as COCO does it, best first; crowd regions and difficult objects are left out.

    Args:
        score_threshold: precision, recall, F1 and confusions are of the detections that score at least this.
        iou_threshold: a detection is right if its IoU with an object of its class is at least this.
    """

    needs_proposals = True

    def __init__(self, dataset, *, score_threshold: float = 0.5, iou_threshold: float = 0.5):
        if not 0 < iou_threshold <= 1:
            raise ValueError(f"iou_threshold: expected a number above 0 and up to 1, got {iou_threshold}")
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold: expected a number from 0 to 1, got {score_threshold}")
        super().__init__(dataset)
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold

    def reset(self):
        """Forget everything processed so far."""
        super().reset()
        self._proposals = {}

    def process(self, targets, detections):
        """Take in one batch; detections may also have "proposals" (S, 4), xyxy in pixels of the file, best first."""
        super().process(targets, detections)
        for target, detected in zip(targets, detections, strict=True):
            if "proposals" in detected:
                proposals = detected["proposals"][: max(PROPOSAL_COUNTS)].cpu().numpy()
                self._proposals[int(target["image_id"])] = proposals

    def score(self):
        """All numbers.

        Returns:
            "analysis": the thresholds, then for "all" classes together and in "per_class" for each by name: "AP" at
            this one IoU, "precision", "recall", "f1", "right", "wrong", "missed"; "confusion_matrix": see
            :func:`confusion_matrix`, with its "names"; "proposals": {"AR@100", "AR@300", "AR@1000"}, None where the
            detector gave no proposals.
        """
        dataset = self.dataset
        objects, detections = to_arrays(dataset, self.predictions())
        matches = match_detections(objects, detections, self.iou_threshold)
        counts = confusion_matrix(
            objects, detections, matches, len(dataset.classes), self.score_threshold, self.iou_threshold
        )
        self._curves = {
            name: precision_recall(objects, detections, matches, label) for label, name in enumerate(dataset.classes, 1)
        }
        right = counts.diagonal()[1:]
        wrong, missed = counts[:, 1:].sum(axis=0) - right, counts[1:].sum(axis=1) - right
        per_class = {
            name: {"AP": interpolated_ap(self._curves[name], right[k] + missed[k])}
            | _ratios(right[k], wrong[k], missed[k])
            for k, name in enumerate(dataset.classes)
        }
        defined = [row["AP"] for row in per_class.values() if row["AP"] is not None]
        mean = float(np.mean(defined)) if defined else None
        return {
            "analysis": {
                "score_threshold": self.score_threshold,
                "iou_threshold": self.iou_threshold,
                "all": {"AP": mean} | _ratios(right.sum(), wrong.sum(), missed.sum()),
                "per_class": per_class,
            },
            "confusion_matrix": {"names": [BACKGROUND, *dataset.classes], "counts": counts.tolist()},
            "proposals": proposal_recall(dataset, objects, self._proposals),
        }

    def tables(self):
        """The numbers as tables.

        Returns:
            {name: list of rows}, each row a dict with the same keys: "per_class", "precision_recall" (a row for each
            right detection, best first, whatever its score) and "confusion_matrix" (a row for each true class).
        """
        results = self.evaluate()
        names = results["confusion_matrix"]["names"]
        return {
            "per_class": [{"class": name} | row for name, row in self._rows()],
            "precision_recall": [
                {"class": name, "score": score, "recall": recall, "precision": precision}
                for name, curve in self._curves.items()
                for score, recall, precision in zip(*(values.tolist() for values in curve), strict=True)
            ],
            "confusion_matrix": [
                {"true": name} | dict(zip(names, row, strict=True))
                for name, row in zip(names, results["confusion_matrix"]["counts"], strict=True)
            ],
        }

    def summary(self):
        """The results as text."""
        results = self.evaluate()
        analysis = results["analysis"]
        columns = list(analysis["all"])
        table = tabulate(
            [[name, *map(_cell, row.values())] for name, row in self._rows()],
            ["class", *columns],
            disable_numparse=True,
            colalign=["left"] + ["right"] * len(columns),
        )
        recalls = ", ".join(f"{name} {_cell(value)}" for name, value in results["proposals"].items())
        return (
            f"at IoU {analysis['iou_threshold']:g} and, but for AP, a score of at least "
            f"{analysis['score_threshold']:g}:\n{table}\n\nproposals: {recalls}"
        )

    def _rows(self):
        analysis = self.evaluate()["analysis"]
        return [*analysis["per_class"].items(), ("all", analysis["all"])]


def confusion_matrix(objects, detections, matches, num_classes, score_threshold, iou_threshold):
    """How often each class was taken for which.

    Detections that found an object of their own class are counted first; what is left on both sides is then matched
    across classes, best score first. So the diagonal holds the right detections, a row sums to the objects of a class,
    and a column to the detections of one that are not left out.

    Args:
        objects, detections: see :func:`~detlite.evaluation.matching.overlapping_pairs`.
        matches: (R,) what :func:`~detlite.evaluation.matching.match_detections` gave.
        num_classes: K.
        score_threshold: detections that score less do not count.
        iou_threshold: least IoU of a match across classes.

    Returns:
        (K + 1, K + 1) int64: rows are true labels, columns detected ones; label 0 is the background, so that row 0
        holds detections of nothing, and column 0 missed objects.
    """
    counted = (detections.scores >= score_threshold) & (matches != IGNORED)
    right = counted & (matches != UNMATCHED)
    missed = ~objects.ignored
    missed[matches[right]] = False
    left_objects = Objects(*(values[missed] for values in objects))
    left_detections = Detections(*(values[counted & ~right] for values in detections))
    confused = match_detections(left_objects, left_detections, iou_threshold, same_class=False)

    true_labels = np.append(left_objects.labels, 0)[confused]  # UNMATCHED, -1, is the appended background
    unfound = np.delete(left_objects.labels, confused[confused != UNMATCHED])
    rows = np.concatenate([detections.labels[right], true_labels, unfound])
    columns = np.concatenate([detections.labels[right], left_detections.labels, np.zeros_like(unfound)])
    size = num_classes + 1
    return np.bincount(rows * size + columns, minlength=size**2).reshape(size, size)


def precision_recall(objects, detections, matches, label):
    """The precision-recall points of a class: one where each object was found, best score first.

    Args:
        objects, detections, matches: see :func:`confusion_matrix`.
        label: the class.

    Returns:
        scores, recalls and precisions (not interpolated) if detections from this score on count.
    """
    order = np.argsort(-detections.scores, kind="stable")
    order = order[(detections.labels[order] == label) & (matches[order] != IGNORED)]
    right = matches[order] != UNMATCHED
    positives = ((objects.labels == label) & ~objects.ignored).sum()
    ranks = np.flatnonzero(right)
    found = np.arange(1, len(ranks) + 1)
    return detections.scores[order[ranks]], found / positives, found / (ranks + 1)


def interpolated_ap(curve, positives):
    """COCO's AP of a class at one IoU: the mean over 101 recalls of the best precision at that recall or more.

    Args:
        curve: what :func:`precision_recall` gave.
        positives: number of objects; without any, the AP is None.

    >>> interpolated_ap((None, np.array([0.5, 1.0]), np.array([1.0, 0.5])), 2)  # (51 * 1 + 50 * 0.5) / 101
    0.752...
    """
    return float(interpolate(curve).mean()) if positives else None


def interpolate(curve):
    """The best precision at each of the 101 RECALLS or more, of what :func:`precision_recall` gave; 0 beyond it."""
    _, recalls, precisions = curve
    best = np.append(np.maximum.accumulate(precisions[::-1])[::-1], 0)
    return best[np.searchsorted(recalls, RECALLS)]


def _ratios(right, wrong, missed):
    """Precision, recall and F1 from counts; None where undefined."""
    right, wrong, missed = int(right), int(wrong), int(missed)
    return {
        "precision": right / (right + wrong) if right + wrong else None,
        "recall": right / (right + missed) if right + missed else None,
        "f1": 2 * right / (2 * right + wrong + missed) if right + wrong + missed else None,
        "right": right,
        "wrong": wrong,
        "missed": missed,
    }


def _cell(value):
    return "n/a" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"
