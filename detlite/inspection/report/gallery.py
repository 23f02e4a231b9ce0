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

MOST = 120  # pictures per run; one of up to SIDE pixels takes 5 to 10 kB
SIDE = 240
QUALITY = 70  # of the JPEG files
MARGIN = 0.4  # around a mistake's boxes, as a fraction of their longer side
MISSED = len(ERRORS)  # a kind after those of ERRORS


def worst_mistakes(dataset, truth, objects, detections, errors, score_threshold):
    """Cut out the wrong detections with the highest scores and the largest missed objects, some of each class and kind.

    An object is missed if no detection with at least ``score_threshold`` is near. An unreadable image gets no picture.

    Returns:
        list of at most MOST: {"kind", "found" and "true": the labels, or None, "score", "iou", "file", "picture": a
        data URI, "size": its (width, height), "boxes": {"found" and "true": (x1, y1, x2, y2) in it, or None}}.
    """
    # Wrong detections, then missed objects, side by side as arrays. An index of -1 means none.
    wrong = np.flatnonzero(errors.kinds != NO_ERROR)
    missed = np.flatnonzero(~objects.ignored & (errors.found_at < score_threshold))
    areas = objects.boxes[missed, 2:].prod(axis=1)
    labels = np.concatenate([detections.labels[wrong], objects.labels[missed]])
    kinds = np.concatenate([errors.kinds[wrong], np.full(len(missed), MISSED)])
    badness = np.concatenate([detections.scores[wrong], areas / max(areas.max(initial=0), 1)])
    detection_indices = np.append(wrong, np.full(len(missed), -1))
    object_indices = np.append(errors.objects[wrong], missed)

    # The rank of a mistake within its group, a class and kind. The best ranks of all groups come first.
    order = np.lexsort((-badness, kinds, labels))
    groups = labels[order] * (len(ERRORS) + 1) + kinds[order]
    ranks = np.arange(len(order)) - np.searchsorted(groups, groups)
    chosen = order[np.lexsort((-badness[order], ranks))][:MOST]

    # Wrong detections first, then missed objects.
    mistakes = []
    for row in chosen[np.argsort(kinds[chosen] == MISSED, kind="stable")]:
        mistake = _mistake(truth, objects, detections, detection_indices[row], object_indices[row])
        image, boxes = mistake.pop("image"), mistake.pop("boxes")
        kind = (*ERRORS, "missed")[kinds[row]]
        mistakes.append({"kind": kind, **mistake, **_picture(dataset, truth, image, boxes)})
    return mistakes


def _mistake(truth, objects, detections, detection, object_index):
    """Return the labels, score, IoU, image and boxes of one mistake; an index of -1 means none."""
    mistake = {"found": None, "true": None, "score": None, "iou": None}
    boxes = {"found": None, "true": None}
    if object_index >= 0:
        image = int(objects.images[object_index])
        mistake["true"] = int(objects.labels[object_index])
        boxes["true"] = objects.boxes[object_index]
    if detection >= 0:
        image = int(detections.images[detection])
        mistake["found"] = int(detections.labels[detection])
        mistake["score"] = round(float(detections.scores[detection]), 4)
        boxes["found"] = detections.boxes[detection]
    if detection >= 0 and object_index >= 0:
        intersection, union = overlap_areas(boxes["found"], boxes["true"])
        mistake["iou"] = round(float(intersection / union), 4)
    return {**mistake, "file": truth["images"][image]["file_name"], "image": image, "boxes": boxes}


def _picture(dataset, truth, index, boxes):
    """Cut out the part of an image around boxes, at most SIDE large, with the boxes in its pixels."""
    nothing = {"picture": None, "size": None, "boxes": None}
    try:
        image, target = dataset[index]
    except UserError:  # no such file: predictions can be scored without images
        return nothing
    if target["image_id"] != truth["images"][index]["id"]:
        return nothing

    # (x, y) of the corners of the part, in the image's pixels.
    given = np.array([box for box in boxes.values() if box is not None])
    low, high = given[:, :2].min(axis=0), (given[:, :2] + given[:, 2:]).max(axis=0)
    margin = MARGIN * max(*(high - low), SIDE / 6)
    size = np.array(image.shape[:0:-1])
    low = np.clip(np.floor(low - margin), 0, size - 1).astype(int)
    high = np.clip(np.ceil(high + margin), low + 1, size).astype(int)

    # The part, scaled down to SIDE and encoded.
    picture = to_pil_image(image[:, low[1] : high[1], low[0] : high[0]])
    scale = min(1, SIDE / max(picture.size))
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size])
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)

    # The boxes in the pixels of the picture.
    factors = np.tile(picture.size / (high - low), 2)
    limits = np.tile(picture.size, 2)
    placed = {}
    for name, box in boxes.items():
        placed[name] = None
        if box is not None:
            corners = (np.concatenate([box[:2], box[:2] + box[2:]]) - np.tile(low, 2)) * factors
            placed[name] = np.clip(corners, 0, limits).round(1).tolist()
    encoded = base64.b64encode(file.getvalue()).decode("ascii")
    return {"picture": f"data:image/jpeg;base64,{encoded}", "size": picture.size, "boxes": placed}
