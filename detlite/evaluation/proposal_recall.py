"""How many objects an image's proposals find: the average recall AR (Hosang et al. 2015).

Letters: S proposals of an image, M objects.
"""

import numpy as np
import torch
from torchvision.ops import box_convert, box_iou

from detlite.evaluation.evaluator import Objects
from detlite.evaluation.matching import match_greedily

PROPOSAL_COUNTS = (100, 300, 1000)
PROPOSAL_IOUS = np.arange(50, 100, 5) / 100


def proposal_recall(dataset, objects, proposals):
    """The recall of the best proposals of an image, whatever the classes, averaged over IoU 0.5, 0.55, ... 0.95 (AR).

    Of all pairs the one with the highest IoU is taken, then of those left, so that a proposal finds one object.

    Args:
        dataset: its ``coco()`` gives the images' ids.
        objects: :class:`~detlite.evaluation.evaluator.Objects`.
        proposals: by image id (S, 4) xyxy, best first; images that are not there have none.

    Returns:
        {"AR@100", "AR@300", "AR@1000"}; None without objects or without any proposals.
    """
    names = [f"AR@{count}" for count in PROPOSAL_COUNTS]
    objects = Objects(*(values[~objects.ignored] for values in objects))
    if not proposals or not len(objects.labels):
        return dict.fromkeys(names)
    corners = box_convert(torch.from_numpy(objects.boxes), "xywh", "xyxy")
    place = {image["id"]: n for n, image in enumerate(dataset.coco()["images"])}
    pairs = []  # proposal, its rank in the image, object, IoU: those that matter, image by image, which saves memory
    for image_id, boxes in proposals.items():
        own = np.flatnonzero(objects.images == place[image_id])
        ious = box_iou(torch.from_numpy(boxes).double(), corners[own]).numpy()  # [S, M]
        ranks, columns = np.nonzero(ious >= PROPOSAL_IOUS[0])
        rows = ranks + len(pairs) * max(PROPOSAL_COUNTS)
        pairs.append((rows, ranks, own[columns], ious[ranks, columns]))
    rows, ranks, columns, ious = map(np.concatenate, zip(*pairs, strict=True))
    order = np.argsort(-ious, kind="stable")
    recalls = {}
    for name, count in zip(names, PROPOSAL_COUNTS, strict=True):
        among = order[ranks[order] < count]
        taken = ious[among[match_greedily(rows[among], columns[among])]]
        recalls[name] = float((taken[:, None] >= PROPOSAL_IOUS).sum(axis=0).mean() / len(objects.labels))
    return recalls
