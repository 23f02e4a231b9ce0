"""Analyze what a detector gets right and wrong, beyond AP.

Letters: M objects, R detections, S proposals, K classes. Boxes are (x, y, width, height) in pixels of the image file.
"""

import numpy as np
import torch
from torchvision.ops import box_convert, box_iou

from detlite.errors import require
from detlite.evaluation.evaluator import Evaluator, format_table, index_images, mean_of_defined, select, to_arrays
from detlite.evaluation.matching import IGNORED, UNMATCHED, match_detections, match_greedily
from detlite.registry import EVALUATORS

RECALLS = np.linspace(0, 1, 101)
PROPOSAL_COUNTS = (100, 300, 1000)
PROPOSAL_IOUS = np.arange(50, 100, 5) / 100
BACKGROUND = "background"


@EVALUATORS.register()
class DetectionAnalysis(Evaluator):
    """Precision, recall and F1 per class, confusion matrix, proposal recall.

    Detections are matched by COCO's rules, best first. Crowd regions and difficult objects do not count. The tables
    also have the points of the precision-recall curves.

    Args:
        score_threshold: minimum score of the detections that count in precision, recall, F1 and confusions.
        iou_threshold: minimum IoU of a correct detection with an object of its class.
    """

    needs_proposals = True

    def __init__(self, dataset: object, *, score_threshold: float = 0.5, iou_threshold: float = 0.5):
        require(0 < iou_threshold <= 1, "iou_threshold: expected a number above 0 and up to 1", iou_threshold)
        require(0 <= score_threshold <= 1, "score_threshold: expected a number from 0 to 1", score_threshold)
        super().__init__(dataset)
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold

    def reset(self) -> None:
        """Forget all detections and proposals."""
        super().reset()
        self._proposals = {}

    def process(self, targets: list[dict], detections: list[dict]) -> None:
        """Add one batch, whose detections may have "proposals" (S, 4), best first."""
        super().process(targets, detections)
        for target, detected in zip(targets, detections, strict=True):
            if "proposals" in detected:
                self._proposals[int(target["image_id"])] = detected["proposals"][: max(PROPOSAL_COUNTS)].cpu().numpy()

    def score(self) -> dict:
        """Compute all numbers.

        Returns:
            "analysis": the thresholds, the numbers of "all" classes together, and "per_class" {name: numbers}. Numbers
            are "AP" at ``iou_threshold``, "precision", "recall", "f1", "right", "wrong" and "missed".
            "confusion_matrix": "names" and "counts". "proposals": see :func:`proposal_recall`.
        """
        classes = self.dataset.classes
        objects, detections = to_arrays(self.dataset, self.predictions())
        matches = match_detections(objects, detections, self.iou_threshold)
        counts = confusion_matrix(objects, detections, matches, len(classes), self.score_threshold, self.iou_threshold)

        # Row 0 of the matrix counts detections without an object, column 0 objects without a detection.
        right = counts.diagonal()[1:]
        wrong = counts[:, 1:].sum(axis=0) - right
        missed = counts[1:].sum(axis=1) - right
        self._curves, per_class = {}, {}
        for index, name in enumerate(classes):
            self._curves[name] = precision_recall(objects, detections, matches, index + 1)
            ap = interpolated_ap(self._curves[name], right[index] + missed[index])
            per_class[name] = {"AP": ap} | _ratios(right[index], wrong[index], missed[index])

        mean_ap = mean_of_defined(row["AP"] for row in per_class.values())
        overall = {"AP": mean_ap} | _ratios(right.sum(), wrong.sum(), missed.sum())
        thresholds = {"score_threshold": self.score_threshold, "iou_threshold": self.iou_threshold}
        return {
            "analysis": thresholds | {"all": overall, "per_class": per_class},
            "confusion_matrix": {"names": [BACKGROUND, *classes], "counts": counts.tolist()},
            "proposals": proposal_recall(self.dataset, objects, self._proposals),
        }

    def tables(self) -> dict:
        """Return the numbers as tables: {name: list of rows}. A row is a dict.

        "per_class" and "confusion_matrix" have one row per class, "precision_recall" one per right detection.
        """
        matrix = self.evaluate()["confusion_matrix"]
        points = []
        for name, curve in self._curves.items():
            for score, recall, precision in np.column_stack(curve).tolist():
                points.append({"class": name, "score": score, "recall": recall, "precision": precision})
        confusions = []
        for name, row in zip(matrix["names"], matrix["counts"], strict=True):
            confusions.append({"true": name} | dict(zip(matrix["names"], row, strict=True)))
        return {
            "per_class": [{"class": name} | row for name, row in self._rows()],
            "precision_recall": points,
            "confusion_matrix": confusions,
        }

    def summary(self) -> str:
        """Format the results as text."""
        results = self.evaluate()
        rows = [[name, *row.values()] for name, row in self._rows()]
        table = format_table(["class", *results["analysis"]["all"]], rows)
        title = f"at IoU {self.iou_threshold:g} and (except for AP) scores of at least {self.score_threshold:g}:"
        most = max(map(len, self._proposals.values()), default=0)
        pairs = zip(PROPOSAL_COUNTS, results["proposals"].values(), strict=True)
        recalls = [f"AR@{min(count, most)} {recall:.3f}" for count, recall in pairs if recall is not None]
        return f"{title}\n{table}\n\nproposals: {', '.join(recalls) or 'n/a'}"

    def _rows(self):
        analysis = self.evaluate()["analysis"]
        return [*analysis["per_class"].items(), ("all", analysis["all"])]


def confusion_matrix(objects, detections, matches, num_classes, score_threshold, iou_threshold):
    """Count the detections of each class on objects of each class.

    Right detections are counted first. The remaining detections and objects are matched across classes, best score
    first. The sum of a class's row is its number of objects, the sum of its column its number of counted detections.

    Args:
        objects, detections: see :mod:`detlite.evaluation.matching`.
        matches: (R,), from :func:`~detlite.evaluation.matching.match_detections`.
        score_threshold: minimum score of a detection that counts.
        iou_threshold: minimum IoU of a match across classes.

    Returns:
        (K + 1, K + 1) int64: rows are true labels, columns detected labels; label 0 is the background.
    """
    counted = (detections.scores >= score_threshold) & (matches != IGNORED)
    right = counted & (matches != UNMATCHED)

    # Match the other detections and objects across classes.
    missed = ~objects.ignored
    missed[matches[right]] = False
    other_objects, other_detections = select(objects, missed), select(detections, counted & ~right)
    confused = match_detections(other_objects, other_detections, iou_threshold, same_class=False)

    # The true and detected labels of right detections, of other detections, and of objects that no detection matches.
    true_labels = np.append(other_objects.labels, 0)[confused]  # UNMATCHED is index -1: the 0, background
    unfound = np.delete(other_objects.labels, confused[confused != UNMATCHED])
    rows = np.concatenate([detections.labels[right], true_labels, unfound])
    columns = np.concatenate([detections.labels[right], other_detections.labels, np.zeros_like(unfound)])
    size = num_classes + 1
    return np.bincount(rows * size + columns, minlength=size**2).reshape(size, size)


def precision_recall(objects, detections, matches, label):
    """Compute the precision-recall points of a class, one per object found.

    ``label`` is the class's. The other arguments are described in :func:`confusion_matrix`.

    Returns:
        scores, best first; the recall and precision (not interpolated) of all detections with at least each score.
    """
    order = np.argsort(-detections.scores, kind="stable")
    order = order[(detections.labels[order] == label) & (matches[order] != IGNORED)]
    right = matches[order] != UNMATCHED
    positives = ((objects.labels == label) & ~objects.ignored).sum()

    # When the n-th object is found, at rank r from 0, recall is n / positives and precision is n / (r + 1).
    ranks = np.flatnonzero(right)
    found = np.arange(1, len(ranks) + 1)
    return detections.scores[order[ranks]], found / positives, found / (ranks + 1)


def interpolated_ap(curve, positives):
    """Compute COCO's AP of a class at one IoU from its curve and its number of objects; without objects it is None.

    >>> interpolated_ap((None, np.array([0.5, 1.0]), np.array([1.0, 0.5])), 2)  # (51 * 1 + 50 * 0.5) / 101
    0.752...
    """
    return float(interpolate(curve).mean()) if positives else None


def interpolate(curve):
    """Return a curve's best precision at each of the 101 RECALLS or higher, 0 past its end."""
    _, recalls, precisions = curve
    best = np.append(np.maximum.accumulate(precisions[::-1])[::-1], 0)  # of each point and all later ones
    return best[np.searchsorted(recalls, RECALLS)]


def proposal_recall(dataset, objects, proposals):
    """Compute the recall of each image's best proposals, averaged over IoUs (AR, Hosang et al. 2015).

    The result is {"AR@100", "AR@300", "AR@1000"}, each None without objects or without any proposals. A number that
    is larger than the number of proposals has None, too, if a smaller one covers all proposals. The IoUs are 0.5, 0.55,
    ... 0.95; classes do not count. Pairs are matched from the highest IoU on, so that a proposal finds at most one
    object. ``proposals`` are {image id: (S, 4) xyxy, best first}; images that are missing have none.
    """
    names = [f"AR@{count}" for count in PROPOSAL_COUNTS]
    objects = select(objects, ~objects.ignored)
    if not proposals or not len(objects.labels):
        return dict.fromkeys(names)

    # Only pairs that overlap enough are kept, image by image: the IoUs of all images at once need too much memory.
    corners = box_convert(torch.from_numpy(objects.boxes), "xywh", "xyxy")
    image_indices = index_images(dataset.coco())
    pairs = []  # of each image: proposals, their ranks in the image, objects, IoUs
    for number, (image_id, boxes) in enumerate(proposals.items()):
        own = np.flatnonzero(objects.images == image_indices[image_id])
        overlaps = box_iou(torch.from_numpy(boxes).double(), corners[own]).numpy()  # [S, M]
        rank, column = np.nonzero(overlaps >= PROPOSAL_IOUS[0])
        pairs.append((rank + number * max(PROPOSAL_COUNTS), rank, own[column], overlaps[rank, column]))
    rows, ranks, columns, ious = map(np.concatenate, zip(*pairs, strict=True))

    # Each number of proposals is matched separately.
    order = np.argsort(-ious, kind="stable")
    most = max(map(len, proposals.values()))
    recalls = dict.fromkeys(names)
    for name, count, fewer in zip(names, PROPOSAL_COUNTS, (-1, *PROPOSAL_COUNTS[:-1]), strict=True):
        if most <= fewer:
            break
        among = order[ranks[order] < count]
        matched = ious[among[match_greedily(rows[among], columns[among])]]
        found = (matched[:, None] >= PROPOSAL_IOUS).sum(axis=0)  # objects at each IoU
        recalls[name] = float(found.mean() / len(objects.labels))
    return recalls


def choose_thresholds(dataset: object, predictions: list[dict], goal: str | float) -> dict:
    """Choose the score from which on detections of each class are kept, the lowest one that reaches a goal.

    ``predictions`` are COCO results. The goal is "f1" for the highest F1, or a precision, both at IoU 0.5.

    Returns:
        {class name: {"threshold", "precision", "recall", "f1"}}; None for all if no threshold reaches the precision.
    """
    objects, detections = to_arrays(dataset, predictions)
    matches = match_detections(objects, detections, 0.5)
    chosen = {}
    for label, name in enumerate(dataset.classes, start=1):
        scores, recalls, precisions = precision_recall(objects, detections, matches, label)
        f1 = 2 * precisions * recalls / (precisions + recalls)
        reached = f1 == f1.max(initial=0) if goal == "f1" else precisions >= goal
        points = np.column_stack([scores, precisions, recalls, f1])[reached].tolist()
        chosen[name] = dict(zip(("threshold", "precision", "recall", "f1"), [[None] * 4, *points][-1], strict=True))
    return chosen


def _ratios(right, wrong, missed):
    right, wrong, missed = int(right), int(wrong), int(missed)
    return {
        "precision": _divide(right, right + wrong),
        "recall": _divide(right, right + missed),
        "f1": _divide(2 * right, 2 * right + wrong + missed),
        "right": right,
        "wrong": wrong,
        "missed": missed,
    }


def _divide(part, whole):
    return part / whole if whole else None
