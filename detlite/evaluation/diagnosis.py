"""Find the likely cause of an AP near 0.

Each hypothesis undoes one common mistake (swapped x and y, wrong box format, ...). It is accepted if AP50 becomes high.
So nothing is reported about a detector that is merely bad. Boxes are (x, y, width, height).
"""

import numpy as np

from detlite.evaluation.evaluator import mean_of_defined, select, to_arrays
from detlite.evaluation.matching import UNMATCHED, class_keys, match_detections, pairs_of_equal_keys
from detlite.evaluation.pascal_voc import voc_average_precisions

ACCEPTED_AP50 = 0.1  # a hypothesis must reach this, and ten times the AP50 of the unchanged detections
FEW = 0.05  # detections per object

# What the predictions' boxes do wrong, and how to undo it.
BOX_HYPOTHESES = {
    "are (x1, y1, x2, y2), not COCO's (x, y, width, height)": lambda x, y, w, h: (x, y, w - x, h - y),
    "were converted to (x, y, width, height) twice": lambda x, y, w, h: (x, y, w + x, h + y),
    "begin with their center, not with the upper left corner": lambda x, y, w, h: (x - w / 2, y - h / 2, w, h),
    "have x and y swapped": lambda x, y, w, h: (y, x, h, w),
}
SCALED = "wrong scale: the predictions are in the files' pixels times {x:.3g} (x) and {y:.3g} (y)"
SHORT_SIDE = "wrong scale: the predictions are in images resized to a short side of {x:.4g}"
RESIZED = "wrong scale: the predictions are in images resized to {x:.4g} x {y:.4g}"
FRACTIONS = "wrong scale: the predictions are fractions of the images' width and height, not pixels"


def likely_cause(dataset, predictions):
    """Return the likely cause of a very low AP of COCO results, or None."""
    objects, detections = to_arrays(dataset, predictions)
    objects = select(objects, ~objects.ignored)
    if not len(objects.labels):
        return None
    # The first cause that is recognized is returned. Sizes (N, 2) are 0 where the ground truth has none.
    sizes = [(image.get("width", 0), image.get("height", 0)) for image in dataset.coco()["images"]]
    sizes = np.array(sizes, float).reshape(-1, 2)
    return (
        _too_few(objects, detections)
        or _truth_outside_images(objects, sizes)
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


def _truth_outside_images(objects, sizes):
    """Recognize a ground truth of corners: boxes leave their images, corners do not."""
    limits = sizes[objects.images] + 1
    outside = (objects.boxes[:, :2] + objects.boxes[:, 2:] > limits).any(axis=1)
    if outside.mean() < 0.2 or (objects.boxes[:, 2:] > limits).any():
        return None
    cause = "they seem to be (x1, y1, x2, y2), not COCO's (x, y, width, height)"
    return f"{outside.sum()} of {len(outside)} boxes of the ground truth leave their images; {cause}"


def _best_hypothesis(objects, detections, sizes, classes):
    """Return the cause whose undoing gives the highest AP50, if that is high enough."""
    candidates = []
    for cause, change in BOX_HYPOTHESES.items():
        boxes = np.stack(change(*detections.boxes.T), axis=1)
        candidates.append((f"the predictions' boxes {cause}", detections._replace(boxes=boxes)))
    candidates += _rescaled(objects, detections, sizes)
    candidates += _relabeled(objects, detections, classes)

    scored = [(_ap50(objects, changed), cause) for cause, changed in candidates]
    score, cause = max(scored, key=lambda pair: pair[0])  # of equal ones the first
    if score < max(ACCEPTED_AP50, 10 * _ap50(objects, detections)):
        return None
    return f"{cause} (AP50 would be {score:.2f})"


def _ap50(objects, detections):
    _, areas = voc_average_precisions(objects, detections, max(objects.labels.max(), detections.labels.max()), 0.5)
    return mean_of_defined(areas)


def _rescaled(objects, detections, sizes):
    """Return (cause, Detections) for each kind of scale that may have been applied."""
    # A detection may be an object at another scale if the quotients of their sides and of their centers are similar.
    rows, columns = _candidate_pairs(objects, detections)
    found, true = detections.boxes[rows], objects.boxes[columns]
    with np.errstate(divide="ignore", invalid="ignore"):
        by_sides = true[:, 2:] / found[:, 2:]  # [P, 2]
        by_centers = (2 * true[:, :2] + true[:, 2:]) / (2 * found[:, :2] + found[:, 2:])
        similar = (abs(np.log(by_sides / by_centers)) < 0.15).all(axis=1)
    if similar.sum() < 3:
        return []
    quotients, images = by_centers[similar], objects.images[columns[similar]]

    # The scale may be the same for all images, or give all images the same short side, or the same width and height.
    candidates = []
    short_sides = sizes.min(axis=1, keepdims=True).repeat(2, axis=1)
    for unit, cause in ((np.ones_like(sizes), SCALED), (short_sides, SHORT_SIDE), (sizes, RESIZED)):
        if not unit.all():  # the ground truth does not have the images' sizes
            continue
        factor = np.median(quotients / unit[images], axis=0)
        scale = factor * unit[detections.images]
        scaled = detections._replace(boxes=detections.boxes * np.concatenate([scale, scale], axis=1))
        x, y = 1 / factor
        if unit is sizes and max(x, y) < 2:
            # Fractions go first, because all scales are equally good if all images have the same size.
            candidates.insert(0, (FRACTIONS, scaled))
        else:
            candidates.append((cause.format(x=x, y=y), scaled))
    return candidates


def _candidate_pairs(objects, detections):
    """Pair the n objects of each image and class with the n best detections there."""
    # Rank the detections within their image and class: the position minus the first position with the same key.
    object_keys, keys = class_keys(objects, detections)
    order = np.lexsort((-detections.scores, keys))
    ranks = np.arange(len(keys)) - np.searchsorted(keys[order], keys[order])
    counts = np.bincount(object_keys, minlength=keys.max() + 1)
    best = order[ranks < counts[keys[order]]]
    rows, columns = pairs_of_equal_keys(keys[best], object_keys)
    return best[rows], columns


def _relabeled(objects, detections, classes):
    """Return (cause, Detections) if boxes of a label are mostly on another class."""
    matches = match_detections(objects, detections, 0.5, same_class=False)
    found = matches != UNMATCHED
    votes = np.zeros((len(classes) + 1,) * 2, int)  # [detected label, true label]
    np.add.at(votes, (detections.labels[found], objects.labels[matches[found]]), 1)

    # A label without a majority remains.
    labels = np.arange(len(votes))
    new = np.where(votes.max(axis=1) > votes.sum(axis=1) / 2, votes.argmax(axis=1), labels)
    moved = np.flatnonzero(new != labels)
    if not len(moved):
        return []
    changes = [f"{classes[label - 1]} found where {classes[new[label] - 1]} is" for label in moved[:3]]
    if len(moved) > 3:
        changes.append("...")
    cause = f"the boxes are right, but the category ids are mixed up: {', '.join(changes)}"
    return [(cause, detections._replace(labels=new[detections.labels]))]


def _untrained(objects, detections, num_classes):
    """Recognize scores that are nearly equal, or far too high on the whole."""
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
