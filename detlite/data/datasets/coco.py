"""Data in COCO's JSON format (https://cocodataset.org/#format-data)."""

import functools
import os

import numpy as np

from detlite.data.datasets.base import AnnotatedImages, Annotations
from detlite.data.datasets.classes import Classes
from detlite.data.datasets.coco_json import column, read_rows
from detlite.data.datasets.ground_truth import box_areas
from detlite.data.faults import stop_at_fault
from detlite.errors import UserError, nearest_path
from detlite.files import user_path
from detlite.registry import DATASETS

LARGEST_AREA = 1e10  # COCO's evaluation ignores larger objects


@DATASETS.register()
class CocoDataset(AnnotatedImages):
    """Images in a folder with their objects in one COCO JSON file.

    Categories may have any ids; they become labels 1 ... K in the order of their ids. Boxes that stick out are clipped
    to the image. Crowd regions are not trained on, as background either; ``coco()`` keeps them as regions to ignore.

    Args:
        report: function that receives faults, see :mod:`detlite.data.faults`.
        root: base folder of the two paths below; empty for the current folder.
        annotations: path of the JSON file.
        images: path of the image folder; the file names in the JSON file are relative to it.
        classes: the classes to use, in the order of their labels. An entry is a name, or a class that merges several,
            such as {vehicle: [car, bus]}. Empty for all categories, in the order of their ids.
    """

    def __init__(
        self,
        report: object = stop_at_fault,
        *,
        root: str = "",
        annotations: str = "",
        images: str = "",
        classes: Classes = (),
        **kwargs: object,
    ):
        super().__init__(**kwargs)
        if not annotations or not images:
            raise UserError("CocoDataset needs ANNOTATIONS, the path of a JSON file, and IMAGES, the path of a folder")
        path = str(user_path(root) / user_path(annotations))
        folder = str(user_path(root) / user_path(images))
        if not os.path.isdir(folder):
            raise UserError(f"{folder}: no such folder (CocoDataset's IMAGES){nearest_path(folder)}")

        # Select the images of the split and their annotations.
        image_rows, rows, categories = read_rows(path, report)
        image_rows = self.select_split(image_rows, column(image_rows, "file_name"))
        kept_ids = set(column(image_rows, "id"))
        rows = [row for row in rows if row["image_id"] in kept_ids]

        categories.sort(key=lambda row: row["id"])
        category_ids = column(categories, "id")

        # Convert the dicts to flat arrays.
        image_ids = column(image_rows, "id", np.int64)
        boxes = column(rows, "bbox", np.float64).reshape(-1, 4)
        describe = functools.partial(_describe, path, rows)
        found = Annotations(
            source=path,
            folder=folder,
            file_names=column(image_rows, "file_name"),
            sizes=list(zip(column(image_rows, "height"), column(image_rows, "width"), strict=True)),
            owners=_indices(column(rows, "image_id", np.int64), image_ids),
            boxes=boxes,
            names=column(categories, "name"),
            name_ids=category_ids,
            labels=_indices(column(rows, "category_id", np.int64), category_ids) + 1,
            crowd=np.nan_to_num(column(rows, "iscrowd", np.float64)) != 0,
            describe=describe,
            image_ids=image_ids,
            areas=_read_areas(rows, boxes, describe, report),
        )
        self.load(found, report, classes)


def _describe(path, rows, index):
    """Return the file, annotation and box as text for a message."""
    row = rows[index]
    box = f"the box {row['bbox']} (x, y, width, height)"
    return f"{path}: annotation {row.get('id')} of image {row['image_id']} has {box}"


def _indices(values, ids):
    """Return the index of each value (B,) in a list of unique ids."""
    order = np.argsort(ids)  # searchsorted needs sorted ids
    return order[np.searchsorted(ids, values, sorter=order)]


def _read_areas(rows, boxes, describe, report):
    """Return the annotations' areas (B,); a missing or invalid one is replaced by its box's area."""
    areas = column(rows, "area", np.float64)
    is_valid = (areas >= 0) & (areas <= LARGEST_AREA)
    if report is not stop_at_fault:  # a wrong area is harmless, so only a check reports it
        wrong = [index for index in np.flatnonzero(~is_valid) if rows[index].get("area") is not None]
        kind, remedy, total = "annotations with a wrong area", "the box's area is used", f"{len(rows)} annotations"
        report(kind, wrong, lambda i: f"{describe(i)} and area {rows[i]['area']}", total, remedy, is_error=False)
    return np.where(is_valid, areas, box_areas(boxes))
