"""Tiles of the images of a data set. Tiles and boxes are (x1, y1, x2, y2); M objects are in an image."""

import logging
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.ops import box_area, box_convert

from detlite.data.datasets.build import build_dataset
from detlite.errors import require
from detlite.ops.tiles import cut_tiles
from detlite.parts import Slot
from detlite.registry import DATASETS
from detlite.signature import constructor_arguments

logger = logging.getLogger(__name__)


@DATASETS.register()
class TiledDataset:
    """Overlapping tiles of another data set's images, to train on small objects in large images.

    If less than ``min_visible`` of an object is in a tile, this part is a region to ignore, and no background.

    Args:
        size: side of the square tiles, in pixels of the image files. A smaller image is one tile.
        overlap: smallest overlap of neighboring tiles, in pixels. Objects up to this size are whole in a tile.
        min_visible: fraction of an object's area that a tile needs to have the object.
        keep_empty: whether tiles without objects stay in the data set.
    """

    slots = {"DATASET": Slot(DATASETS)}

    def __init__(
        self, dataset: object, *, size: int = 512, overlap: int = 128, min_visible: float = 0.5, keep_empty: bool = True
    ):
        rule = "need 0 <= overlap < size and 0 < min_visible <= 1"
        require(0 <= overlap < size and 0 < min_visible <= 1, rule, overlap, size, min_visible)
        self.dataset = dataset
        self.classes = dataset.classes
        self.category_ids = dataset.category_ids
        self.min_visible = min_visible
        tiles = []
        for image_index, image_size in enumerate(np.asarray(dataset.sizes).tolist()):
            tiles += [(image_index, *tile) for tile in cut_tiles(image_size, size, overlap)]
        self._tiles = np.array(tiles, np.int64).reshape(-1, 5)

        # Drop the tiles without objects to train on.
        if not keep_empty:
            with_objects = {row["image_id"] for row in self.coco()["annotations"] if not row["iscrowd"]}
            self._tiles = self._tiles[sorted(with_objects)]
        left_out = f"{len(tiles) - len(self):,} tiles without objects"
        logger.info(f"{len(dataset):,} images cut into {len(tiles):,} tiles; left out: {left_out}")

    @classmethod
    def from_config(cls, node: dict, report: object = None) -> "TiledDataset":
        """Build the data set that a config node describes, see :func:`build_dataset`."""
        return cls(build_dataset(node["DATASET"], report), **constructor_arguments(cls, node))

    @property
    def sizes(self) -> np.ndarray:
        """(N, 2) int64 array of (height, width) of the tiles."""
        return self._tiles[:, [4, 3]] - self._tiles[:, [2, 1]]

    @property
    def image_file(self) -> Callable[[int], str]:
        """Return the function from a tile's index to the path of its image; missing if the images have no files."""
        path_of = self.dataset.image_file
        return lambda index: path_of(int(self._tiles[index, 0]))

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, index: int) -> tuple:
        """Return tile ``index`` and its target."""
        index = range(len(self))[index]  # a negative index counts from the end
        image_index, x1, y1, x2, y2 = self._tiles[index].tolist()
        image, target = self.dataset[image_index]
        boxes, visible = _clip_to_tile(target["boxes"].as_subclass(torch.Tensor), (x1, y1, x2, y2))
        is_object = visible >= self.min_visible
        ignored = boxes[(visible > 0) & ~is_object]
        if "ignored" in target:
            others, visible = _clip_to_tile(target["ignored"].as_subclass(torch.Tensor), (x1, y1, x2, y2))
            ignored = torch.cat([ignored, others[visible > 0]])

        options = {"format": "XYXY", "canvas_size": (y2 - y1, x2 - x1)}
        tile = {
            "boxes": tv_tensors.BoundingBoxes(boxes[is_object], **options),
            "labels": target["labels"][is_object],
            "image_id": index,
        }
        if len(ignored):
            tile["ignored"] = tv_tensors.BoundingBoxes(ignored, **options)
        return tv_tensors.Image(image[:, y1:y2, x1:x2].contiguous()), tile

    def coco(self) -> dict:
        """Return the tiles' ground truth as a COCO dict. Image ids are indices, regions to ignore are crowds."""
        truth = self.dataset.coco()
        rows_of_image = defaultdict(list)
        for row in truth["annotations"]:
            rows_of_image[row["image_id"]].append(row)

        images, annotations = [], []
        for index, (image_index, *tile) in enumerate(self._tiles.tolist()):
            source = truth["images"][image_index]
            height, width = tile[3] - tile[1], tile[2] - tile[0]
            images.append({"id": index, "file_name": source["file_name"], "height": height, "width": width})

            # As in a record, boxes are clipped to the image before their visible fractions are computed.
            rows = rows_of_image[source["id"]]
            boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float64).view(-1, 4)
            boxes, _ = _clip_to_tile(box_convert(boxes, "xywh", "xyxy"), (0, 0, source["width"], source["height"]))
            boxes, visible = _clip_to_tile(boxes, tile)
            boxes = box_convert(boxes, "xyxy", "xywh").tolist()
            for row, box, fraction in zip(rows, boxes, visible.tolist(), strict=True):
                if fraction > 0:
                    is_cut = row.get("iscrowd", 0) or fraction < self.min_visible
                    changed = {"image_id": index, "bbox": box, "area": box[2] * box[3], "iscrowd": int(is_cut)}
                    annotations.append({**row, **changed, "id": len(annotations) + 1})
        return {"images": images, "annotations": annotations, "categories": truth["categories"]}


def _clip_to_tile(boxes, tile):
    """Return boxes (M, 4) clipped to a tile, in its pixels, and the fraction of each box's area in it, (M,)."""
    corners = boxes.new_tensor(tile)
    clipped = boxes.clamp(corners[[0, 1, 0, 1]], corners[[2, 3, 2, 3]])
    return clipped - corners[[0, 1, 0, 1]], box_area(clipped) / box_area(boxes)
