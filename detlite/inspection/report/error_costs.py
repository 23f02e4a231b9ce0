"""What AP would be without each kind of mistake (TIDE, Bolya et al. 2020), and from which score an object is noticed.

Letters: M objects, R detections, K classes. Arrays are those of :mod:`detlite.evaluation.evaluator`.
"""

from typing import NamedTuple

import numpy as np

from detlite.evaluation.analysis import interpolated_ap, precision_recall
from detlite.evaluation.matching import IGNORED
from detlite.evaluation.mistakes import KINDS, kinds_of_mistakes

ERRORS = tuple(kind for kind in KINDS if kind not in ("right", "ignored"))
MENDABLE = ("localization", "class")  # such a detection is right with another box or class
NO_ERROR = -1


class Errors(NamedTuple):
    """What is wrong on both sides.

    Attributes:
        kinds: (R,) int64, a place in ERRORS, or NO_ERROR for what is right or left out.
        objects: (R,) int64, the object that each is right or wrong about, or -1.
        found_at: (M,) float64, the best score of a detection that found the object or, were it not for its place or
            its class, would have; -inf if there is none: then the object is missed at any score.
    """

    kinds: np.ndarray
    objects: np.ndarray
    found_at: np.ndarray


def find_errors(objects, detections):
    """The kind of every error at an IoU of 0.5, whatever it scores.

    Args:
        objects, detections: see :func:`~detlite.evaluation.mistakes.kinds_of_mistakes`. What a detection is depends on
            better ones alone, so that from any score on the kinds stay what they are.

    Returns:
        :class:`Errors`.
    """
    names, nearest, _ = kinds_of_mistakes(objects, detections)
    place = {name: number for number, name in enumerate(ERRORS)}
    kinds = np.array([place.get(name, NO_ERROR) for name in names], np.int64)
    found_at = np.full(len(objects.labels), -np.inf)
    near = np.isin(names, ("right", *MENDABLE))
    np.maximum.at(found_at, nearest[near], detections.scores[near])
    return Errors(kinds, nearest, found_at)


def gains(objects, detections, matches, errors, num_classes):
    """How much AP at an IoU of 0.5 each kind of error costs (the paper's dAP, section 2.3).

    A localization or classification error is mended by giving the detection its object, if that was not found and this
    is the best of the errors of these two kinds about it; all other errors are mended by taking the detection away, and
    missed objects by not counting them.

    Args:
        objects, detections: see :func:`find_errors`.
        matches: (R,) what :func:`~detlite.evaluation.matching.match_detections` gave at an IoU of 0.5.
        errors: what :func:`find_errors` gave.
        num_classes: K.

    Returns:
        {kind: AP gained}, of ERRORS and "missed"; each at least 0; None where AP is undefined.
    """
    before = mean_ap(objects, detections, matches, num_classes)
    if before is None:
        return dict.fromkeys((*ERRORS, "missed"))
    nearly = np.flatnonzero(np.isin(errors.kinds, [ERRORS.index(name) for name in MENDABLE]))
    nearly = nearly[~np.isin(errors.objects[nearly], matches[matches >= 0])]
    nearly = nearly[np.argsort(-detections.scores[nearly], kind="stable")]
    nearly = nearly[np.unique(errors.objects[nearly], return_index=True)[1]]
    after = {}
    for kind, name in enumerate(ERRORS):
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
