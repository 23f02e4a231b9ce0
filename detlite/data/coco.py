"""Data in COCO's JSON format (https://cocodataset.org/#format-data).

Letters: B annotations of a whole file, M objects of one image. The annotations are held in a few flat arrays, not in
Python objects, so that forked workers share them (reading a Python object writes its reference count, which copies its
page; pytorch#13246).
"""

import logging
import os
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision import tv_tensors

from detlite.data.coco_file import (
    read_categories,
    read_ids,
    read_integers,
    read_json,
    read_numbers,
    read_references,
    read_strings,
)
from detlite.errors import UserError
from detlite.registry import DATASETS

logger = logging.getLogger(__name__)


@DATASETS.register()
class CocoDataset:
    """Images in a folder with their objects in one COCO JSON file.

    Categories may have any ids; they become labels 1 ... K in the order of their ids. Boxes that stick out are clipped
    to the image. Crowd regions are no objects to train on; ``coco()`` keeps them, as regions to ignore.

    Args:
        root: the folder that the two paths below are relative to; empty for the current one.
        annotations: path of the JSON file.
        images: path of the folder that its file names are relative to.
        keep_empty: whether images without objects (or with crowd regions alone) stay in the data set.
        bad_boxes: what to do about boxes without area, outside their image or not finite: "error" stops and names
            them, "skip" leaves them out and logs how many. COCO's own train2017 has two of them.
    """

    def __init__(
        self,
        *,
        root: str = "",
        annotations: str = "",
        images: str = "",
        keep_empty: bool = True,
        bad_boxes: Literal["error", "skip"] = "error",
    ):
        if not annotations or not images:
            raise UserError("CocoDataset needs ANNOTATIONS, the path of a JSON file, and IMAGES, the path of a folder")
        self._file = path = os.path.expanduser(os.path.join(root, annotations))
        self._folder = os.path.expanduser(os.path.join(root, images))
        if not os.path.isdir(self._folder):
            raise UserError(f"{self._folder}: no such folder (CocoDataset's IMAGES)")
        content = read_json(path)
        self.category_ids, self.classes = read_categories(path, content["categories"])

        rows = content["images"]
        self._image_ids = read_ids(path, "image", rows)
        names = read_strings(path, "image", rows, "file_name")
        self._file_names = np.array([name.encode("utf-8", "surrogatepass") for name in names], np.bytes_)
        self.sizes = np.stack(
            [read_integers(path, "image", rows, key, minimum=1) for key in ("height", "width")], axis=1
        )

        rows = content["annotations"]
        owners = read_references(path, rows, "image_id", self._image_ids.tolist())
        self._labels = read_references(path, rows, "category_id", self.category_ids) + 1
        self._boxes = read_numbers(path, rows, "bbox", (4,))  # as in the file: x, y, width, height
        self._crowd = np.nan_to_num(read_numbers(path, rows, "iscrowd", ())) != 0
        areas = read_numbers(path, rows, "area", ())
        with np.errstate(all="ignore"):  # boxes that are not finite are reported below
            self._areas = np.where(np.isfinite(areas), areas, self._boxes[:, 2] * self._boxes[:, 3])

        corners = _corners(self._boxes, self.sizes[owners])
        good = np.isfinite(self._boxes).all(axis=1) & (corners[:, 2:] > corners[:, :2]).all(axis=1)
        if not good.all():
            self._report_bad_boxes(np.flatnonzero(~good), rows, owners, bad_boxes)
        self._arrange(owners, good, keep_empty)

    def _report_bad_boxes(self, bad, rows, owners, bad_boxes):
        first = bad[0]
        height, width = self.sizes[owners[first]]
        message = (
            f"{self._file}: annotation {rows[first].get('id')} of image {self._image_ids[owners[first]]} has the box "
            f"{rows[first]['bbox']} (x, y, width, height), which has no area in an image of width {width} and "
            f"height {height}; {len(bad)} of {len(rows)} boxes are of this kind"
        )
        if bad_boxes == "error":
            raise UserError(f"{message}; mend the file, or set BAD_BOXES to skip to leave them out")
        logger.warning(f"{message}, left out")

    def _arrange(self, owners, good, keep_empty):
        """Drop what is not kept, and sort the annotations by image."""
        objects = np.bincount(owners[good & ~self._crowd], minlength=len(self.sizes))
        keep = np.full(len(self.sizes), True) if keep_empty else objects > 0
        logger.info(
            f"{self._file}: {len(keep)} images, {objects.sum()} objects, {(self._crowd & good).sum()} crowd regions; "
            f"{(objects == 0).sum()} images without objects{'' if keep_empty else ', left out'}"
        )
        self._image_ids, self._file_names, self.sizes = (
            values[keep] for values in (self._image_ids, self._file_names, self.sizes)
        )
        order = np.argsort(owners, kind="stable")
        order = order[(good & keep[owners])[order]]
        owners = (np.cumsum(keep) - 1)[owners[order]]
        self._boxes, self._labels, self._areas, self._crowd = (
            values[order] for values in (self._boxes, self._labels, self._areas, self._crowd)
        )
        self._starts = np.searchsorted(owners, np.arange(len(self.sizes) + 1))

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        """Image ``index`` and its objects.

        Raises:
            UserError: the file is missing, cannot be read, or has another size than the JSON says.
        """
        index = range(len(self))[index]
        path = os.path.join(self._folder, self._file_names[index].decode("utf-8", "surrogatepass"))
        height, width = self.sizes[index].tolist()
        image = read_image(path)
        if tuple(image.shape[-2:]) != (height, width):
            raise UserError(
                f"{path}: the image, upright as its EXIF data says, has height {image.shape[-2]} and width "
                f"{image.shape[-1]}, but {self._file} says height {height} and width {width}: its boxes would be wrong"
            )
        rows = np.arange(self._starts[index], self._starts[index + 1])
        rows = rows[~self._crowd[rows]]
        boxes = torch.from_numpy(_corners(self._boxes[rows], self.sizes[index]))
        return image, {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            "labels": torch.from_numpy(self._labels[rows]),
            "image_id": int(self._image_ids[index]),
        }

    def coco(self):
        """The ground truth as a COCO dict: the file's own boxes, crowd regions too, annotations numbered from 1."""
        return coco_ground_truth(
            self.classes,
            self.category_ids,
            self._image_ids,
            [name.decode("utf-8", "surrogatepass") for name in self._file_names],
            self.sizes,
            np.repeat(self._image_ids, np.diff(self._starts)),
            self._boxes,
            self._labels,
            self._areas,
            self._crowd,
        )


def coco_ground_truth(
    classes, category_ids, image_ids, file_names, sizes, box_image_ids, boxes, labels, areas=None, crowd=None
):
    """A COCO dict from arrays, with all that pycocotools asks for.

    Args:
        classes, category_ids: (K,) names and their COCO ids.
        image_ids, file_names: (N,) of the images.
        sizes: (N, 2) int array of (height, width).
        box_image_ids: (B,) the id of each box's image.
        boxes: (B, 4) array of (x, y, width, height), as COCO has them.
        labels: (B,) int array, 1 ... K.
        areas: (B,) array; the boxes' areas where not given.
        crowd: (B,) bool array of regions to ignore; none where not given.

    Returns:
        dict of the lists "images", "annotations" (ids from 1; pycocotools scores an annotation 0 as missed) and
        "categories".
    """
    areas = boxes[:, 2] * boxes[:, 3] if areas is None else areas
    crowd = np.zeros(len(boxes), bool) if crowd is None else crowd
    box_keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
    columns = (box_image_ids, np.array(category_ids)[labels - 1], boxes, areas, crowd.astype(int))
    annotations = [dict(zip(box_keys, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    images = zip(np.asarray(image_ids).tolist(), file_names, sizes.tolist(), strict=True)
    return {
        "images": [
            {"id": image_id, "file_name": name, "height": size[0], "width": size[1]} for image_id, name, size in images
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in zip(category_ids, classes, strict=True)],
    }


def read_image(path):
    """The image in a file: (3, H, W) uint8 RGB, turned upright as its EXIF data says; gray and alpha become RGB.

    Pillow reads it, because torchvision.io's decoders are deprecated from torchvision 0.29 on.

    Raises:
        UserError: no such file, or none that can be decoded whole.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip to 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return tv_tensors.Image(image.convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such image file") from None
    except Exception as error:  # a decoder at odds with a broken file raises anything from SyntaxError to struct.error
        raise UserError(f"{path}: cannot be read as an image: {error or type(error).__name__}") from error


def _corners(boxes, sizes):
    """(x, y, width, height) to float32 (x1, y1, x2, y2) clipped to (height, width), (2,) or one a box (B, 2)."""
    limits = np.concatenate([sizes[..., ::-1], sizes[..., ::-1]], axis=-1)
    with np.errstate(all="ignore"):  # boxes that are not finite are reported
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return np.clip(corners, 0, limits).astype(np.float32)
