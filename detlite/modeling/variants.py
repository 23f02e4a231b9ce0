"""Test-time augmentation and tiles: variants of an image, and the detections of all variants as one."""

from typing import NamedTuple

import torch
from torchvision.transforms.v2 import functional as F

from detlite.ops.boxes import scale_boxes
from detlite.ops.tiles import uncut

PER_DETECTION = ("boxes", "scores", "labels", "class_scores", "features")  # entries with a row per detection


class Variant(NamedTuple):
    """A change of an image before the detection."""

    scale: float  # factor on both sides
    is_mirrored: bool  # left to right
    tile: tuple | None = None  # (x1, y1, x2, y2) of the part that is cut out first; None is the whole image
    overlap: int = 0  # of neighboring tiles, in pixels

    def change(self, image):
        """Return the variant (3, h, w) of an image (3, H, W)."""
        if self.tile:
            x1, y1, x2, y2 = self.tile
            image = image[:, y1:y2, x1:x2]
        size = [max(1, round(side * self.scale)) for side in image.shape[-2:]]
        image = F.resize(image, size, antialias=True)
        return F.horizontal_flip(image) if self.is_mirrored else image

    def restore(self, detections, size, image_size):
        """Move the boxes of detections from the variant's pixels to the image's; sizes are (height, width).

        Detections that the border of a tile cuts are dropped, see :func:`~detlite.ops.tiles.uncut`.
        """
        left, top, right, bottom = self.tile or (0, 0, *image_size[::-1])
        for name in detections.keys() & {"boxes", "proposals"}:
            boxes = detections[name]
            if self.is_mirrored:
                x1, y1, x2, y2 = boxes.unbind(dim=1)
                boxes = torch.stack([size[1] - x2, y1, size[1] - x1, y2], dim=1)
            boxes = scale_boxes(boxes, size, (bottom - top, right - left))
            detections[name] = boxes + boxes.new_tensor([left, top, left, top])
        if self.tile:
            keep = uncut(detections["boxes"], self.tile, image_size, self.overlap)
            for name in detections.keys() & set(PER_DETECTION):
                detections[name] = detections[name][keep]


PLAIN = [Variant(scale=1.0, is_mirrored=False)]  # no augmentation


def merge(found, heads, with_class_scores):
    """Merge the detections of an image's variants by the NMS of the RoI heads.

    Soft-NMS lowered the scores within each variant. If there are "class_scores", the merging starts from these, so that
    no score is lowered twice. Proposals are taken from the variants in turn, the best of each first.
    """
    joined = {}
    for name in [name for name in PER_DETECTION if name in found[0]]:
        joined[name] = torch.cat([detections[name] for detections in found])
    columns, scores = joined["labels"] - 1, joined["scores"]
    if "class_scores" in joined:
        scores = joined["class_scores"].gather(1, columns[:, None])[:, 0]

    keep, scores = heads.nms(joined["boxes"], scores, columns, heads.detections_per_image)
    merged = found[0] | {name: values[keep] for name, values in joined.items()} | {"scores": scores}
    if "proposals" in merged:
        proposals = [detections["proposals"] for detections in found]
        ranks = torch.cat([torch.arange(len(boxes)) for boxes in proposals])
        merged["proposals"] = torch.cat(proposals)[ranks.argsort(stable=True)]
    if not with_class_scores:
        merged.pop("class_scores", None)
    return merged
