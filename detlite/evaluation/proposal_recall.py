"""Compute the average recall AR of proposals (Hosang et al. 2015).

Letters: S proposals of an image, M objects.
"""

import numpy as np
import torch
from torchvision.ops import box_convert, box_iou

from detlite.evaluation.evaluator import index_images, select
from detlite.evaluation.matching import match_greedily

PROPOSAL_COUNTS = (100, 300, 1000)
PROPOSAL_IOUS = np.arange(50, 100, 5) / 100


def proposal_recall(dataset, objects, proposals):
    """Compute the recall of each image's best proposals, averaged over IoUs (AR).

    The result is {"AR@100", "AR@300", "AR@1000"}, each None without objects or without any proposals. A number that
    is larger than the number of proposals has None, too, if a smaller one covers all proposals. The IoUs are 0.5, 0.55,
    ... 0.95; classes do not count. Pairs are matched from the highest IoU on, so that a proposal finds at most one
    object. ``proposals`` are {image id: (S, 4) xyxy, best first}; images that are missing have none.
    """
    names = [f"AR@{count}" for count in PROPOSAL_COUNTS]
    objects = select(objects, ~objects.ignored)
    if not proposals or not len(objects.labels):
        return dict.fromkeys(names)

    # Only pairs that overlap enough are kept, image by image: the IoUs of all images at once need too much memory.
    corners = box_convert(torch.from_numpy(objects.boxes), "xywh", "xyxy")
    image_indices = index_images(dataset.coco())
    rows, ranks, columns, ious = [], [], [], []  # proposal, its rank in the image, object, IoU
    for number, (image_id, boxes) in enumerate(proposals.items()):
        own = np.flatnonzero(objects.images == image_indices[image_id])
        overlaps = box_iou(torch.from_numpy(boxes).double(), corners[own]).numpy()  # [S, M]
        rank, column = np.nonzero(overlaps >= PROPOSAL_IOUS[0])
        rows.append(rank + number * max(PROPOSAL_COUNTS))
        ranks.append(rank)
        columns.append(own[column])
        ious.append(overlaps[rank, column])
    rows, ranks, columns, ious = map(np.concatenate, (rows, ranks, columns, ious))

    # Each number of proposals is matched separately.
    order = np.argsort(-ious, kind="stable")
    most = max(map(len, proposals.values()))
    recalls = dict.fromkeys(names)
    for name, count, fewer in zip(names, PROPOSAL_COUNTS, (-1, *PROPOSAL_COUNTS[:-1]), strict=True):
        if most <= fewer:
            break
        among = order[ranks[order] < count]
        matched = ious[among[match_greedily(rows[among], columns[among])]]
        found = (matched[:, None] >= PROPOSAL_IOUS).sum(axis=0)  # objects at each IoU
        recalls[name] = float(found.mean() / len(objects.labels))
    return recalls
