"""Small pictures of the worst mistakes, and of crowded regions.

Letters: M objects, R detections. Boxes are (x, y, width, height) in pixels of the image file.
"""

import base64
import io

import numpy as np
from torchvision.transforms.v2.functional import to_pil_image

from detlite.errors import UserError
from detlite.evaluation.evaluator import select
from detlite.evaluation.matching import overlap_areas
from detlite.inspection.report.error_costs import ERRORS, NO_ERROR

MOST = 120  # pictures per run; one of up to SIDE pixels takes 5 to 10 kB
SIDE = 240
QUALITY = 70  # of the JPEG files
MARGIN = 0.4  # around a mistake's boxes, as a fraction of their longer side
MISSED = len(ERRORS)  # a kind after those of ERRORS
REGION = 400  # side of a region, in pixels of the image file
REGIONS, CROWD = 3, 15  # regions by objects and by mistakes per run, and the fewest of them in one


def worst_mistakes(dataset, truth, objects, detections, errors, score_threshold):
    """Cut out the wrong detections with the highest scores and the largest missed objects, some of each class and kind.

    An object is missed if no detection with at least ``score_threshold`` is near. An unreadable image gets no picture.

    Returns:
        list of at most MOST: {"kind", "found" and "true": the labels, or None, "score", "iou", "file", "picture": a
        data URI, "size": its (width, height), "boxes": {"found" and "true": list of (x1, y1, x2, y2) in it}}.
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
    boxes = {"found": np.empty((0, 4)), "true": np.empty((0, 4))}
    if object_index >= 0:
        image = int(objects.images[object_index])
        mistake["true"] = int(objects.labels[object_index])
        boxes["true"] = objects.boxes[[object_index]]
    if detection >= 0:
        image = int(detections.images[detection])
        mistake["found"] = int(detections.labels[detection])
        mistake["score"] = round(float(detections.scores[detection]), 4)
        boxes["found"] = detections.boxes[[detection]]
    if detection >= 0 and object_index >= 0:
        intersection, union = overlap_areas(boxes["found"][0], boxes["true"][0])
        mistake["iou"] = round(float(intersection / union), 4)
    return {**mistake, "file": truth["images"][image]["file_name"], "image": image, "boxes": boxes}


def crowded_regions(dataset, truth, objects, detections, errors, score_threshold):
    """Cut out the regions with the most objects and those with the most mistakes, in the pixels of the file.

    Mistakes are missed objects and wrong detections with at least ``score_threshold``, see :func:`worst_mistakes`.

    Returns:
        list of {"objects" and "mistakes": their numbers, "file", "picture", "size", "boxes"}. The boxes are of "right"
        detections, of "found" (wrong) ones and of "true" (missed) objects.
    """
    is_sure, is_wrong = detections.scores >= score_threshold, errors.kinds != NO_ERROR
    shown = {
        "right": select(detections, is_sure & ~is_wrong),
        "found": select(detections, is_sure & is_wrong),
        "true": select(objects, ~objects.ignored & (errors.found_at < score_threshold)),
    }

    # Count the centers of objects and of mistakes in the cells of a grid, (image, column, row).
    parts = [select(objects, ~objects.ignored), shown["found"], shown["true"]]
    images, boxes = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "boxes"))
    cells = np.column_stack([images, (boxes[:, :2] + boxes[:, 2:] / 2) // REGION]).astype(np.int64)
    cells, members = np.unique(cells, axis=0, return_inverse=True)
    groups = np.split(members.reshape(-1), [len(parts[0].labels)])
    counts = np.stack([np.bincount(group, minlength=len(cells)) for group in groups])  # [2, cells]

    regions = []
    for index in dict.fromkeys(np.argsort(-counts, axis=1, kind="stable")[:, :REGIONS].flatten().tolist()):
        if counts[:, index].max() >= CROWD:
            image, low = int(cells[index, 0]), cells[index, 1:] * REGION
            inside = {name: _boxes_inside(rows, image, low) for name, rows in shown.items()}
            about = dict(zip(("objects", "mistakes"), counts[:, index].tolist(), strict=True))
            about["file"] = truth["images"][image]["file_name"]
            regions.append(about | _cut(dataset, truth, image, inside, low, low + REGION, REGION))
    return regions


def _boxes_inside(rows, image, low):
    """Return the boxes (n, 4) in an image that overlap the region that begins at ``low``, (x, y)."""
    corners = rows.boxes[:, :2]
    inside = (corners < low + REGION) & (corners + rows.boxes[:, 2:] > low)
    return rows.boxes[(rows.images == image) & inside.all(axis=1)]


def _picture(dataset, truth, index, boxes):
    """Cut out the part of an image around {name: (n, 4) boxes}, at most SIDE large."""
    given = np.concatenate([*boxes.values()])
    low, high = given[:, :2].min(axis=0), (given[:, :2] + given[:, 2:]).max(axis=0)
    margin = MARGIN * max(*(high - low), SIDE / 6)
    return _cut(dataset, truth, index, boxes, low - margin, high + margin, SIDE)


def _cut(dataset, truth, index, boxes, low, high, side):
    """Cut out a part of an image, from (x, y) ``low`` to ``high``, at most ``side`` large, with boxes in its pixels."""
    nothing = {"picture": None, "size": None, "boxes": None}
    try:
        image, target = dataset[index]
    except UserError:  # no such file: predictions can be scored without images
        return nothing
    if target["image_id"] != truth["images"][index]["id"]:
        return nothing
    size = np.array(image.shape[:0:-1])
    low = np.clip(np.floor(low), 0, size - 1).astype(int)
    high = np.clip(np.ceil(high), low + 1, size).astype(int)

    # The part, scaled down to ``side`` and encoded.
    picture = to_pil_image(image[:, low[1] : high[1], low[0] : high[0]])
    scale = min(1, side / max(picture.size))
    picture = picture.resize([max(1, round(length * scale)) for length in picture.size])
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    encoded = base64.b64encode(file.getvalue()).decode("ascii")

    # The boxes in the pixels of the picture.
    factors, limits = np.tile(picture.size / (high - low), 2), np.tile(picture.size, 2)
    placed = {}
    for name, rows in boxes.items():
        corners = (np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1) - np.tile(low, 2)) * factors
        placed[name] = np.clip(corners, 0, limits).round(1).tolist()
    return {"picture": f"data:image/jpeg;base64,{encoded}", "size": picture.size, "boxes": placed}
