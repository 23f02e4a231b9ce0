"""Find the likely cause of an AP near 0.

Each hypothesis undoes one common mistake (swapped x and y, wrong box format, ...). It is accepted if AP50 becomes high,
so a detector that is merely bad has no such cause. Boxes are (x, y, width, height).
"""

import numpy as np

from detlite.evaluation.evaluator import mean_of_defined, select, to_arrays
from detlite.evaluation.matching import UNMATCHED, class_keys, match_detections, pairs_of_equal_keys
from detlite.evaluation.pascal_voc import voc_average_precisions

ACCEPTED_AP50 = 0.1  # minimum for a hypothesis; it must also reach ten times the original AP50
FEW = 0.05  # minimum number of detections per object; fewer are reported

# Mistakes in the predictions' boxes, each with the function that undoes it.
BOX_HYPOTHESES = {
    "are (x1, y1, x2, y2), not COCO's (x, y, width, height)": lambda x, y, w, h: (x, y, w - x, h - y),
    "were converted to (x, y, width, height) twice": lambda x, y, w, h: (x, y, w + x, h + y),
    "begin with their center, not with the upper left corner": lambda x, y, w, h: (x - w / 2, y - h / 2, w, h),
    "have x and y swapped": lambda x, y, w, h: (y, x, h, w),
}
SCALED = "wrong scale: the predictions are the files' pixel coordinates multiplied by {x:.3g} (x) and {y:.3g} (y)"
SHORT_SIDE = "wrong scale: the predictions are in pixels of images resized to a short side of {x:.4g}"
RESIZED = "wrong scale: the predictions are in pixels of images resized to {x:.4g} x {y:.4g}"
FRACTIONS = "wrong scale: the predictions are fractions of the images' width and height, not pixels"


def likely_cause(dataset, predictions):
    """Return the likely cause of a very low AP of COCO results, or None."""
    objects, detections = to_arrays(dataset, predictions)
    objects = select(objects, ~objects.ignored)
    if not len(objects.labels):
        return None

    # Image sizes (N, 2) are 0 if the ground truth does not have them.
    sizes = [(image.get("width", 0), image.get("height", 0)) for image in dataset.coco()["images"]]
    sizes = np.array(sizes, float).reshape(-1, 2)
    return (  # the first cause found
        _too_few(objects, detections)
        or _best_hypothesis(objects, detections, sizes, dataset.classes)
        or _untrained(objects, detections, len(dataset.classes))
    )


def _too_few(objects, detections):
    count = len(detections.scores)
    if count >= FEW * len(objects.labels):
        return None
    best = f", the best with score {detections.scores.max():.3g}" if count else ""
    return (
        f"{count or 'no'} detections for {len(objects.labels)} objects{best}. Too few scores reach the model's "
        "SCORE_THRESHOLD: the weights were not loaded or are hardly trained, or the threshold is too high"
    )


def _best_hypothesis(objects, detections, sizes, classes):
    """Return the cause whose correction gives the highest AP50, or None if even that is too low."""
    candidates = []
    for cause, change in BOX_HYPOTHESES.items():
        boxes = np.stack(change(*detections.boxes.T), axis=1)
        candidates.append((f"the predictions' boxes {cause}", detections._replace(boxes=boxes)))
    candidates += _rescaled(objects, detections, sizes)
    candidates += _relabeled(objects, detections, classes)

    scored = [(_ap50(objects, changed), cause) for cause, changed in candidates]
    score, cause = max(scored, key=lambda pair: pair[0])  # the first one if several are equal
    if score < max(ACCEPTED_AP50, 10 * _ap50(objects, detections)):
        return None
    return f"{cause} (AP50 would be {score:.2f})"


def _ap50(objects, detections):
    num_classes = max(objects.labels.max(), detections.labels.max())
    return mean_of_defined(voc_average_precisions(objects, detections, num_classes, 0.5)[1])  # AP by area


def _rescaled(objects, detections, sizes):
    """Return a list of (cause, corrected Detections), one per kind of scale that may have been applied."""
    # Keep the pairs that may be one box at two scales: true / found is similar for the sides and the centers.
    rows, columns = _candidate_pairs(objects, detections)
    found, true = detections.boxes[rows], objects.boxes[columns]
    with np.errstate(divide="ignore", invalid="ignore"):
        by_sides = true[:, 2:] / found[:, 2:]  # [P, 2]
        by_centers = (2 * true[:, :2] + true[:, 2:]) / (2 * found[:, :2] + found[:, 2:])  # the factor 2 cancels
        similar = (abs(np.log(by_sides / by_centers)) < 0.15).all(axis=1)
    if similar.sum() < 3:
        return []
    ratios, images = by_centers[similar], objects.images[columns[similar]]

    # true / found is factor * unit: one scale for all images, one short side for all, or one width and height for all.
    candidates = []
    short_sides = sizes.min(axis=1, keepdims=True).repeat(2, axis=1)
    for unit, cause in ((np.ones_like(sizes), SCALED), (short_sides, SHORT_SIDE), (sizes, RESIZED)):
        if not unit.all():  # the ground truth does not have the images' sizes
            continue
        factor = np.median(ratios / unit[images], axis=0)
        scale = factor * unit[detections.images]
        scaled = detections._replace(boxes=detections.boxes * np.concatenate([scale, scale], axis=1))
        x, y = 1 / factor  # scale or size of the predictions
        if unit is sizes and max(x, y) < 2:
            # A size of 1 x 1 means fractions. They go first: if all images have one size, all scales are equally good.
            candidates.insert(0, (FRACTIONS, scaled))
        else:
            candidates.append((cause.format(x=x, y=y), scaled))
    return candidates


def _candidate_pairs(objects, detections):
    """Pair the n objects of an image and class with the n best detections of the same image and class."""
    # Rank of a detection in its image and class: its sorted position minus the first position with the same key.
    object_keys, keys = class_keys(objects, detections)
    order = np.lexsort((-detections.scores, keys))
    ranks = np.arange(len(keys)) - np.searchsorted(keys[order], keys[order])
    counts = np.bincount(object_keys, minlength=keys.max() + 1)
    best = order[ranks < counts[keys[order]]]
    rows, columns = pairs_of_equal_keys(keys[best], object_keys)
    return best[rows], columns


def _relabeled(objects, detections, classes):
    """Return [(cause, corrected Detections)] if most boxes of a label match objects of another class, else []."""
    matches = match_detections(objects, detections, 0.5, same_class=False)
    found = matches != UNMATCHED
    votes = np.zeros((len(classes) + 1,) * 2, int)  # [detected label, true label]
    np.add.at(votes, (detections.labels[found], objects.labels[matches[found]]), 1)

    has_majority = votes.max(axis=1) > votes.sum(axis=1) / 2
    labels = np.arange(len(votes))
    new = np.where(has_majority, votes.argmax(axis=1), labels)
    moved = np.flatnonzero(new != labels)
    if not len(moved):
        return []
    changes = [f"{classes[label - 1]} found where {classes[new[label] - 1]} is" for label in moved[:3]]
    if len(moved) > 3:
        changes.append("...")
    cause = f"the boxes are right, but the category ids are mixed up: {', '.join(changes)}"
    return [(cause, detections._replace(labels=new[detections.labels]))]


def _untrained(objects, detections, num_classes):
    """Recognize scores that are nearly equal, or whose sum is far above the number of objects."""
    if len(detections.scores) < 20:
        return None
    ending = "this happens if the weights were not loaded or are hardly trained"
    low, middle, high = np.percentile(detections.scores, (5, 50, 95))
    if middle < 0.6 and high - low < 0.6 * middle:
        return f"nearly all scores are from {low:.3g} to {high:.3g} (guessing gives 1 / {num_classes + 1}); {ending}"
    expected = detections.scores.clip(0, 1).sum()
    if expected > 3 * len(objects.labels):
        return f"the scores add up to {expected:.0f} objects, but there are {len(objects.labels)}; {ending}"
    return None
