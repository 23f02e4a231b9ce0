"""Why each wrong detection is wrong, and what AP would be without each kind of error (TIDE, Bolya et al. 2020).

Letters: M objects, R detections, K classes. Arrays are those of :mod:`detlite.evaluation.evaluator`.
"""

from typing import NamedTuple

import numpy as np

from detlite.evaluation.analysis import interpolated_ap, precision_recall
from detlite.evaluation.evaluator import Detections, Objects
from detlite.evaluation.matching import IGNORED, UNMATCHED, overlapping_pairs

FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1  # the paper's t_f and t_b
KINDS = ("localization", "classification", "both", "duplicate", "background")
LOCALIZATION, CLASSIFICATION, BOTH, DUPLICATE, BACKGROUND = range(5)
NO_ERROR = -1


class Errors(NamedTuple):
    """What is wrong on both sides.

    Attributes:
        kinds: (R,) int64, a place in KINDS, or NO_ERROR for what is right or left out.
        objects: (R,) int64, the object that an error is about: the one that it overlaps most, of its own class for
            localization errors and duplicates, of another for classification errors; or -1, if it overlaps none.
        ious: (R,) float64, the IoU with it.
        found_at: (M,) float64, the best score of a detection that found the object or, were it not for its place or
            its class, would have; -inf if there is none: then the object is missed at any score.
    """

    kinds: np.ndarray
    objects: np.ndarray
    ious: np.ndarray
    found_at: np.ndarray


def find_errors(objects, detections, matches):
    """The kind of every error (section 2.2 of the paper; of two that apply, the one that its authors' code names).

    - localization: the IoU with an object of its class is at least 0.1, but under 0.5;
    - classification: else, the IoU with an object of another class is at least 0.5;
    - duplicate: else, the IoU with an object of its class, which a better detection found, is at least 0.5;
    - background: else, the IoU with all objects is at most 0.1;
    - both: else.

    Args:
        objects, detections: see :func:`~detlite.evaluation.matching.overlapping_pairs`.
        matches: (R,) what :func:`~detlite.evaluation.matching.match_detections` gave at an IoU of 0.5.

    Returns:
        :class:`Errors`.
    """
    wrong, counted = np.flatnonzero(matches == UNMATCHED), np.flatnonzero(~objects.ignored)
    rows, columns, intersections, unions = overlapping_pairs(
        Objects(*(values[counted] for values in objects)),
        Detections(*(values[wrong] for values in detections)),
        same_class=False,
    )
    rows, columns, ious = wrong[rows], counted[columns], intersections / unions
    own = detections.labels[rows] == objects.labels[columns]
    size = len(matches)
    own_iou, own_object = _best(rows[own], columns[own], ious[own], size)
    other_iou, other_object = _best(rows[~own], columns[~own], ious[~own], size)
    nearest = np.where(own_iou >= other_iou, own_object, other_object)

    localization = (own_iou >= BACKGROUND_IOU) & (own_iou < FOREGROUND_IOU)
    rules = [
        (matches != UNMATCHED, NO_ERROR, np.full(size, -1)),
        (localization, LOCALIZATION, own_object),
        (other_iou >= FOREGROUND_IOU, CLASSIFICATION, other_object),
        (own_iou >= FOREGROUND_IOU, DUPLICATE, own_object),
        (np.maximum(own_iou, other_iou) <= BACKGROUND_IOU, BACKGROUND, nearest),
    ]
    conditions, kinds, culprits = zip(*rules, strict=True)
    kinds, culprits = np.select(conditions, kinds, BOTH), np.select(conditions, culprits, nearest)
    ious = np.where(culprits == own_object, own_iou, other_iou)

    found_at = np.full(len(objects.labels), -np.inf)
    right, nearly = matches >= 0, (kinds == LOCALIZATION) | (kinds == CLASSIFICATION)
    np.maximum.at(found_at, matches[right], detections.scores[right])
    np.maximum.at(found_at, culprits[nearly], detections.scores[nearly])
    return Errors(kinds, culprits, ious, found_at)


def _best(rows, columns, ious, size):
    """For each of ``size`` rows its greatest IoU and where; 0 and -1 without any."""
    best, place = np.zeros(size), np.full(size, -1)
    order = np.argsort(ious, kind="stable")  # of two values for one row, the later is kept
    best[rows[order]], place[rows[order]] = ious[order], columns[order]
    return best, place


def gains(objects, detections, matches, errors, num_classes):
    """How much AP at an IoU of 0.5 each kind of error costs (the paper's dAP, section 2.3).

    A localization or classification error is mended by giving the detection its object, if that was not found and this
    is the best of the errors of these two kinds about it; all other errors are mended by taking the detection away, and
    missed objects by not counting them.

    Args:
        objects, detections, matches, errors: see :func:`find_errors`.
        num_classes: K.

    Returns:
        {kind: AP gained}, of KINDS and "missed"; each at least 0; None where AP is undefined.
    """
    before = mean_ap(objects, detections, matches, num_classes)
    if before is None:
        return dict.fromkeys((*KINDS, "missed"))
    nearly = np.flatnonzero((errors.kinds == LOCALIZATION) | (errors.kinds == CLASSIFICATION))
    nearly = nearly[~np.isin(errors.objects[nearly], matches[matches >= 0])]
    nearly = nearly[np.argsort(-detections.scores[nearly], kind="stable")]
    nearly = nearly[np.unique(errors.objects[nearly], return_index=True)[1]]
    after = {}
    for kind, name in enumerate(KINDS):
        mended, labels = matches.copy(), detections.labels.copy()
        mended[errors.kinds == kind] = IGNORED
        given = nearly[errors.kinds[nearly] == kind]
        mended[given] = errors.objects[given]
        labels[given] = objects.labels[errors.objects[given]]
        after[name] = mean_ap(objects, detections._replace(labels=labels), mended, num_classes)
    found = objects._replace(ignored=objects.ignored | (errors.found_at == -np.inf))
    after["missed"] = mean_ap(found, detections, matches, num_classes)
    return {name: None if ap is None else max(0.0, ap - before) for name, ap in after.items()}


def mean_ap(objects, detections, matches, num_classes):
    """The mean over the classes of AP at the one IoU that was matched at; None without objects."""
    positives = np.bincount(objects.labels[~objects.ignored], minlength=num_classes + 1)
    found = [
        interpolated_ap(precision_recall(objects, detections, matches, label), positives[label])
        for label in np.flatnonzero(positives)
    ]
    return float(np.mean(found)) if found else None
