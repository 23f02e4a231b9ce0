"""Why nearly nothing is right: what is usually mistaken, tried out on the detections.

A hypothesis changes the detections as it supposes that they were spoiled; it is believed if they then score well. So a
detector that is merely bad is told nothing. Boxes are (x, y, width, height), N images, M objects, R detections.
"""

import numpy as np

from detlite.evaluation.evaluator import to_arrays
from detlite.evaluation.matching import UNMATCHED, match_detections, pairs_of_equal_keys
from detlite.evaluation.pascal_voc import voc_average_precisions

BELIEVED_AP50 = 0.1  # what a hypothesis must reach, and ten times what the detections have as they are
FEW = 0.05  # detections per object

BOX_HYPOTHESES = {
    "the predictions' boxes seem to be (x1, y1, x2, y2) where COCO's bbox is (x, y, width, height)": (
        lambda x, y, w, h: (x, y, w - x, h - y)
    ),
    "boxes (x, y, width, height) seem to have been taken for (x1, y1, x2, y2) on the way to the predictions": (
        lambda x, y, w, h: (x, y, w + x, h + y)
    ),
    "the predictions' boxes seem to begin with their center where COCO's bbox begins with the upper left corner": (
        lambda x, y, w, h: (x - w / 2, y - h / 2, w, h)
    ),
    "x and y of the predictions' boxes seem to be swapped": lambda x, y, w, h: (y, x, h, w),
}


def likely_cause(dataset, predictions):
    """The likely cause of a very low AP.

    Args:
        dataset: ground truth: ``classes`` (names), ``category_ids`` (one a class) and ``coco()``.
        predictions: list of COCO results.

    Returns:
        a sentence, or None if nothing is plausible.
    """
    objects, detections = to_arrays(dataset, predictions)
    objects = type(objects)(*(values[~objects.ignored] for values in objects))
    if not len(objects.labels):
        return None
    sizes = np.array([(i.get("width", 0), i.get("height", 0)) for i in dataset.coco()["images"]], float).reshape(-1, 2)
    return (
        _too_few(objects, detections)
        or _truth_outside_images(objects, sizes)
        or _spoiled(objects, detections, sizes, dataset.classes)
        or _untrained(objects, detections, len(dataset.classes))
    )


def _too_few(objects, detections):
    count = len(detections.scores)
    if count >= FEW * len(objects.labels):
        return None
    scores = f", the best scores {detections.scores.max():.3g}" if count else ""
    return (
        f"{count or 'no'} detections for {len(objects.labels)} objects{scores}: everything else scored under the "
        "model's SCORE_THRESHOLD, as it does if the weights were not loaded or hardly trained, or if it is too high"
    )


def _truth_outside_images(objects, sizes):
    """COCO's bbox written as corners: many boxes leave their images, and as corners none does."""
    limits = sizes[objects.images] + 1
    outside = (objects.boxes[:, :2] + objects.boxes[:, 2:] > limits).any(axis=1)
    if outside.mean() < 0.2 or (objects.boxes[:, 2:] > limits).any():
        return None
    return (
        f"{outside.sum()} of {len(outside)} boxes of the ground truth leave their images; they seem to be (x1, y1, x2, "
        "y2) where COCO's bbox is (x, y, width, height)"
    )


def _spoiled(objects, detections, sizes, classes):
    """The best of the hypotheses, if it is good enough."""
    candidates = [
        (cause, detections._replace(boxes=np.stack(change(*detections.boxes.T), axis=1)))
        for cause, change in BOX_HYPOTHESES.items()
    ]
    candidates += _rescaled(objects, detections, sizes)
    candidates += _relabeled(objects, detections, classes)
    scored = [(_ap50(objects, changed), cause) for cause, changed in candidates]
    score, cause = max(scored, key=lambda pair: pair[0])
    if score < max(BELIEVED_AP50, 10 * _ap50(objects, detections)):
        return None
    return f"{cause} (AP50 would be {score:.2f})"


def _ap50(objects, detections):
    num_classes = max(objects.labels.max(), detections.labels.max())
    scores = [pair[1] for pair in voc_average_precisions(objects, detections, num_classes, 0.5) if pair]
    return float(np.mean(scores))


def _rescaled(objects, detections, sizes):
    """The detections scaled, if many of them are objects of their image and class but for one scale.

    A detection and an object can be the same thing if left, right (and above, below) have the same quotient. The scale
    is one for all images, or one that makes all images' short sides, or both sides, equal.
    """
    rows, columns = _best_candidates(objects, detections)
    with np.errstate(divide="ignore", invalid="ignore"):
        ours, theirs = detections.boxes[rows], objects.boxes[columns]
        by_sides = theirs[:, 2:] / ours[:, 2:]
        by_centers = (2 * theirs[:, :2] + theirs[:, 2:]) / (2 * ours[:, :2] + ours[:, 2:])
        alike = (abs(np.log(by_sides / by_centers)) < 0.15).all(axis=1)
    if alike.sum() < 3:
        return []
    short = sizes.min(axis=1, keepdims=True).repeat(2, axis=1)
    candidates = []
    for unit, cause in (
        (
            np.ones_like(sizes),
            "another scale: the predictions seem to be in the files' pixels times {x:.3g} (x) and {y:.3g} (y)",
        ),
        (short, "another scale: the predictions seem to be in images resized to a short side of {x:.4g}"),
        (sizes, "another scale: the predictions seem to be in images resized to {x:.4g} x {y:.4g}"),
    ):
        if not unit.all():  # a ground truth without the images' sizes
            continue
        factor = np.median(by_centers[alike] / unit[objects.images[columns[alike]]], axis=0)
        scale = factor * unit[detections.images]
        scaled = detections._replace(boxes=detections.boxes * np.concatenate([scale, scale], axis=1))
        x, y = 1 / factor
        if unit is sizes and max(x, y) < 2:
            cause = "another scale: the predictions seem to be fractions of the images' width and height, not pixels"
            candidates.insert(0, (cause, scaled))
        else:
            candidates.append((cause.format(x=x, y=y), scaled))
    return candidates


def _best_candidates(objects, detections):
    """Pairs of a detection and an object of one image and class; an object more, a detection more, best first."""
    classes = 1 + max(objects.labels.max(), detections.labels.max())
    object_keys = objects.images * classes + objects.labels
    keys = detections.images * classes + detections.labels
    order = np.lexsort((-detections.scores, keys))
    ranks = np.arange(len(keys)) - np.searchsorted(keys[order], keys[order])  # within image and class
    counts = np.bincount(object_keys, minlength=keys.max() + 1)
    best = order[ranks < counts[keys[order]]]
    rows, columns = pairs_of_equal_keys(keys[best], object_keys)
    return best[rows], columns


def _relabeled(objects, detections, classes):
    """The detections with other labels, if those of a label lie on objects of mostly one class, not their own."""
    matches = match_detections(objects, detections, 0.5, same_class=False)
    found = matches != UNMATCHED
    votes = np.zeros((len(classes) + 1,) * 2, int)  # detected label, true label
    np.add.at(votes, (detections.labels[found], objects.labels[matches[found]]), 1)
    new = votes.argmax(axis=1)
    clear = votes.max(axis=1) > votes.sum(axis=1) / 2
    new = np.where(clear, new, np.arange(len(new)))
    moved = np.flatnonzero(new != np.arange(len(new)))
    if not len(moved):
        return []
    changes = ", ".join(f"{classes[label - 1]} found where {classes[new[label] - 1]} is" for label in moved[:3])
    cause = f"the boxes are right but the category ids do not meet: {changes}{', ...' if len(moved) > 3 else ''}"
    return [(cause, detections._replace(labels=new[detections.labels]))]


def _untrained(objects, detections, num_classes):
    """Scores all alike, or so high all over that they add up to far more objects than there are."""
    ending = "as they do if the weights were not loaded or hardly trained"
    low, middle, high = np.percentile(detections.scores, (5, 50, 95))
    if len(detections.scores) >= 20 and middle < 0.6 and high - low < 0.6 * middle:
        return f"nearly all scores lie from {low:.3g} to {high:.3g} (1 / {num_classes + 1}: knows nothing), {ending}"
    promised = detections.scores.clip(0, 1).sum()
    if promised > 3 * len(objects.labels) and len(detections.scores) >= 20:
        return f"the scores add up to {promised:.0f} objects where there are {len(objects.labels)}, {ending}"
    return None
