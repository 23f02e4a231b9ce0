"""Small pictures of the worst mistakes.

Letters: M objects, R detections. Boxes are (x, y, width, height) in pixels of the image file.
"""

import base64
import io

import numpy as np
from torchvision.transforms.v2.functional import to_pil_image

from detlite.errors import UserError
from detlite.evaluation.matching import overlap_areas
from detlite.inspection.report.error_costs import ERRORS, NO_ERROR

MOST = 120  # pictures of a run; each of up to SIDE pixels has some 5 to 10 kB
SIDE = 240
QUALITY = 70  # of the JPEG files
MARGIN = 0.4  # around what a mistake is about, as a part of its longer side


def worst_mistakes(dataset, truth, objects, detections, errors, score_threshold):
    """The surest wrong detections and the largest objects that were missed, in turn of each class and kind.

    Args:
        dataset: images by their place; those that cannot be read get no picture.
        truth: its ``coco()``.
        objects, detections, errors: see :func:`~detlite.inspection.report.error_costs.find_errors`.
        score_threshold: an object is missed if no detection that scores so much is near.

    Returns:
        list of at most MOST: {"kind", "found" and "true": the labels, or None, "score", "iou", "file", "picture": a
        data URI, "size": its (width, height), "boxes": {"found" and "true": (x1, y1, x2, y2) in it, or None}}.
    """
    wrong = np.flatnonzero(errors.kinds != NO_ERROR)
    missed = np.flatnonzero(~objects.ignored & (errors.found_at < score_threshold))
    areas = objects.boxes[missed, 2:].prod(axis=1)
    labels = np.concatenate([detections.labels[wrong], objects.labels[missed]])
    kinds = np.concatenate([errors.kinds[wrong], np.full(len(missed), len(ERRORS))])
    badness = np.concatenate([detections.scores[wrong], areas / max(areas.max(initial=0), 1)])
    # (detection, object), -1 for none
    pairs = np.column_stack([np.append(wrong, np.full(len(missed), -1)), np.append(errors.objects[wrong], missed)])
    order = np.lexsort((-badness, kinds, labels))
    groups = labels[order] * (len(ERRORS) + 1) + kinds[order]
    ranks = np.arange(len(order)) - np.searchsorted(groups, groups)
    chosen = order[np.lexsort((-badness[order], ranks))][:MOST]
    return [
        _mistake(dataset, truth, objects, detections, errors, kinds[i], *pairs[i])
        for i in chosen[np.argsort(kinds[chosen] == len(ERRORS), kind="stable")]
    ]


def _mistake(dataset, truth, objects, detections, errors, kind, detection, place):
    found, true = detection >= 0, place >= 0
    image = int(detections.images[detection] if found else objects.images[place])
    boxes = {
        "found": detections.boxes[detection] if found else None,
        "true": objects.boxes[place] if true else None,
    }
    return {
        "kind": (*ERRORS, "missed")[kind],
        "found": int(detections.labels[detection]) if found else None,
        "true": int(objects.labels[place]) if true else None,
        "score": round(float(detections.scores[detection]), 4) if found else None,
        "iou": round(_iou(*boxes.values()), 4) if found and true else None,
        "file": truth["images"][image]["file_name"],
        **_picture(dataset, truth, image, boxes),
    }


def _iou(a, b):
    """Return the IoU of two boxes."""
    intersection, union = overlap_areas(a, b)
    return float(intersection / union)


def _picture(dataset, truth, place, boxes):
    """The part of an image around boxes, no larger than SIDE, and where they are in it."""
    nothing = {"picture": None, "size": None, "boxes": None}
    try:
        image, target = dataset[place]
    except UserError:  # no such file: predictions can be scored without any
        return nothing
    if target["image_id"] != truth["images"][place]["id"]:
        return nothing
    given = np.array([box for box in boxes.values() if box is not None])
    low, high = given[:, :2].min(axis=0), (given[:, :2] + given[:, 2:]).max(axis=0)
    margin = MARGIN * max(*(high - low), SIDE / 6)
    size = np.array(image.shape[:0:-1])
    low = np.clip(np.floor(low - margin), 0, size - 1).astype(int)
    high = np.clip(np.ceil(high + margin), low + 1, size).astype(int)
    picture = to_pil_image(image[:, low[1] : high[1], low[0] : high[0]])
    scale = min(1, SIDE / max(picture.size))
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size])
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    factors = np.tile(picture.size / (high - low), 2)

    def inside(box):
        corners = (np.concatenate([box[:2], box[:2] + box[2:]]) - np.tile(low, 2)) * factors
        return np.clip(corners, 0, np.tile(picture.size, 2)).round(1).tolist()

    return {
        "picture": "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii"),
        "size": picture.size,
        "boxes": {name: None if box is None else inside(box) for name, box in boxes.items()},
    }
