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

    An object is missed if no detection with at least ``score_threshold`` is near.

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
        kind = (*ERRORS, "missed")[kinds[row]]
        indices = detection_indices[row], object_indices[row]
        mistakes.append({"kind": kind, **_mistake(dataset, truth, objects, detections, *indices)})
    return mistakes


def _mistake(dataset, truth, objects, detections, detection, object_index):
    """Return the labels, score, IoU and picture of one mistake; an index of -1 means none."""
    found = select(detections, slice(detection, detection + 1))  # one row; from -1 to 0 are none
    true = select(objects, slice(object_index, object_index + 1))
    intersections, unions = overlap_areas(found.boxes, true.boxes)  # (1,), or (0,) if one is missing

    # The part of the image around the boxes.
    boxes = np.concatenate([found.boxes, true.boxes])
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    margin = MARGIN * max(*(high - low), SIDE / 6)
    image = int(np.append(found.images, true.images)[0])
    return {
        "found": [*found.labels.tolist(), None][0],
        "true": [*true.labels.tolist(), None][0],
        "score": [*found.scores.round(4).tolist(), None][0],
        "iou": [*(intersections / unions).round(4).tolist(), None][0],
        **_cut(dataset, truth, image, {"found": found, "true": true}, low - margin, high + margin, SIDE),
    }


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
            numbers = dict(zip(("objects", "mistakes"), counts[:, index].tolist(), strict=True))
            regions.append(numbers | _cut(dataset, truth, image, shown, low, low + REGION, REGION))
    return regions


def _cut(dataset, truth, index, groups, low, high, side):
    """Cut out a part of an image, from (x, y) ``low`` to ``high``, at most ``side`` large, unless it is unreadable.

    ``groups`` are Objects or Detections by name, of which the "boxes" in the part are returned.
    """
    about = {"file": truth["images"][index]["file_name"], "picture": None, "size": None, "boxes": None}
    try:
        image, target = dataset[index]
    except UserError:  # no such file: predictions can be scored without images
        return about
    if target["image_id"] != truth["images"][index]["id"]:
        return about
    size = np.array(image.shape[:0:-1])
    low = np.clip(np.floor(low), 0, size - 1).astype(int)
    high = np.clip(np.ceil(high), low + 1, size).astype(int)

    # The part, scaled down to ``side`` and encoded.
    picture = to_pil_image(image[:, low[1] : high[1], low[0] : high[0]])
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    encoded = base64.b64encode(file.getvalue()).decode("ascii")

    # The boxes that it shows, in its pixels.
    factors, limits = np.tile(picture.size / (high - low), 2), np.tile(picture.size, 2)
    placed = {}
    for name, rows in groups.items():
        boxes = rows.boxes[rows.images == index]
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        corners = corners[(corners[:, :2] < high).all(axis=1) & (corners[:, 2:] > low).all(axis=1)]
        placed[name] = np.clip((corners - np.tile(low, 2)) * factors, 0, limits).round(1).tolist()
    return about | {"picture": f"data:image/jpeg;base64,{encoded}", "size": picture.size, "boxes": placed}
