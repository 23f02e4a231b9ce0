"""The AP that each kind of mistake costs (TIDE, Bolya et al. 2020), and the score at which an object is noticed.

Letters: M objects, R detections, K classes. Arrays are those of :mod:`detlite.evaluation.evaluator`.
"""

from typing import NamedTuple

import numpy as np

from detlite.evaluation.analysis import interpolated_ap, precision_recall
from detlite.evaluation.evaluator import mean_of_defined
from detlite.evaluation.matching import IGNORED
from detlite.evaluation.mistakes import KINDS, kinds_of_mistakes

ERRORS = tuple(kind for kind in KINDS if kind not in ("right", "ignored"))
FIXABLE = ("localization", "class")  # such a detection is right with another box or class
NO_ERROR = -1


class Errors(NamedTuple):
    """The errors of the detections, and the scores that find the objects."""

    kinds: np.ndarray  # (R,) int64, indices into ERRORS, or NO_ERROR if the detection is right or ignored
    objects: np.ndarray  # (R,) int64, the object that each detection is right or wrong about, or -1
    # (M,) float64, the best score of a detection that found the object, or would have with another box or class; -inf
    # if there is none, so that the object is missed at any score
    found_at: np.ndarray


def find_errors(objects, detections):
    """Return the :class:`Errors` at an IoU of 0.5, at any score.

    The kind of a detection depends on better detections only, so the kinds are the same above any score threshold.
    """
    names, nearest, _ = kinds_of_mistakes(objects, detections)
    index_of = {name: index for index, name in enumerate(ERRORS)}
    kinds = np.array([index_of.get(name, NO_ERROR) for name in names], np.int64)
    found_at = np.full(len(objects.labels), -np.inf)
    near = np.isin(names, ("right", *FIXABLE))
    np.maximum.at(found_at, nearest[near], detections.scores[near])
    return Errors(kinds, nearest, found_at)


def gains(objects, detections, matches, errors, num_classes):
    """Compute how much AP at an IoU of 0.5 each kind of error costs (the paper's dAP, section 2.3).

    A localization or classification error is fixed by giving the detection its object, if no detection found that
    object, and this is the best of the errors of these two kinds about it. All other errors are fixed by removing the
    detection, and missed objects by not counting them.

    ``matches`` and ``errors`` are what :func:`~detlite.evaluation.matching.match_detections`, at an IoU of 0.5, and
    :func:`find_errors` returned. The result is {kind: AP gained} for ERRORS and "missed"; each at least 0; None where
    AP is undefined.
    """
    before = mean_ap(objects, detections, matches, num_classes)
    if before is None:
        return dict.fromkeys((*ERRORS, "missed"))

    # The best fixable detection of each object that is not found.
    fixable = [ERRORS.index(name) for name in FIXABLE]
    fixed = np.flatnonzero(np.isin(errors.kinds, fixable))
    fixed = fixed[~np.isin(errors.objects[fixed], matches[matches >= 0])]
    fixed = fixed[np.argsort(-detections.scores[fixed], kind="stable")]
    fixed = fixed[np.unique(errors.objects[fixed], return_index=True)[1]]

    # AP without the errors of one kind at a time.
    after = {}
    for kind, name in enumerate(ERRORS):
        new_matches, labels = matches.copy(), detections.labels.copy()
        new_matches[errors.kinds == kind] = IGNORED
        fixed_here = fixed[errors.kinds[fixed] == kind]
        new_matches[fixed_here] = errors.objects[fixed_here]
        labels[fixed_here] = objects.labels[errors.objects[fixed_here]]
        after[name] = mean_ap(objects, detections._replace(labels=labels), new_matches, num_classes)
    noticed = objects._replace(ignored=objects.ignored | (errors.found_at == -np.inf))
    after["missed"] = mean_ap(noticed, detections, matches, num_classes)
    return {name: None if ap is None else max(0.0, ap - before) for name, ap in after.items()}


def mean_ap(objects, detections, matches, num_classes):
    """Return the mean AP of the classes with objects at the IoU of the matches, or None without objects."""
    positives = np.bincount(objects.labels[~objects.ignored], minlength=num_classes + 1)
    found = []
    for label in np.flatnonzero(positives):
        curve = precision_recall(objects, detections, matches, label)
        found.append(interpolated_ap(curve, positives[label]))
    return mean_of_defined(found)
