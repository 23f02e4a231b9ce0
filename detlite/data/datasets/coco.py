"""Data in COCO's JSON format (https://cocodataset.org/#format-data).

Letters: B annotations of a whole file.
"""

import functools
import os
from typing import Literal

import numpy as np

from detlite.data.datasets.base import AnnotatedImages, good_boxes
from detlite.data.datasets.coco_json import (
    FILE_NAME,
    FOUR_NUMBERS,
    NUMBER,
    STRING,
    column,
    good_rows,
    read_json,
    rows_with_known,
    rows_with_own_id,
    whole_number,
)
from detlite.data.datasets.split import Split, of_source, of_split
from detlite.data.faults import stop_at_fault
from detlite.errors import UserError, nearest_path
from detlite.registry import DATASETS


@DATASETS.register()
class CocoDataset(AnnotatedImages):
    """Images in a folder with their objects in one COCO JSON file.

    Categories may have any ids; they become labels 1 ... K in the order of their ids. Boxes that stick out are clipped
    to the image. Crowd regions are no objects to train on; ``coco()`` keeps them, as regions to ignore.

    Args:
        report: what is done about faults, see :mod:`detlite.data.faults`.
        root: the folder that the two paths below are relative to; empty for the current one.
        annotations: path of the JSON file.
        images: path of the folder that its file names are relative to.
        split: all images; or, if they are not divided yet, train, four fifths drawn by their names, or test, the rest.
        keep_empty: whether images without objects (or with crowd regions alone) stay in the data set.
        bad_boxes: what to do about boxes without area, outside their image or not finite: "error" stops and names
            them, "skip" leaves them out and logs how many. COCO's own train2017 has two of them.
    """

    def __init__(
        self,
        report=stop_at_fault,
        *,
        root: str = "",
        annotations: str = "",
        images: str = "",
        split: Split = "all",
        keep_empty: bool = True,
        bad_boxes: Literal["error", "skip"] = "error",
    ):
        if not annotations or not images:
            raise UserError("CocoDataset needs ANNOTATIONS, the path of a JSON file, and IMAGES, the path of a folder")
        path = os.path.expanduser(os.path.join(root, annotations))
        folder = os.path.expanduser(os.path.join(root, images))
        if not os.path.isdir(folder):
            raise UserError(f"{folder}: no such folder (CocoDataset's IMAGES){nearest_path(folder)}")
        content = read_json(path)
        images, annotations, categories = _good_rows(path, content, report)
        images = of_split(images, [row["file_name"] for row in images], split)
        ours = {row["id"] for row in images}
        annotations = [row for row in annotations if row["image_id"] in ours]
        self.category_ids = sorted(row["id"] for row in categories)
        names = {row["id"]: row["name"] for row in categories}
        self.classes = [names[category_id] for category_id in self.category_ids]

        place = {row["id"]: i for i, row in enumerate(images)}
        label = {category_id: k for k, category_id in enumerate(self.category_ids, start=1)}
        owners = np.array([place[row["image_id"]] for row in annotations], np.int64)
        labels = np.array([label[row["category_id"]] for row in annotations], np.int64)
        sizes = np.stack([column(images, key, np.int64) for key in ("height", "width")], axis=1)
        boxes = column(annotations, "bbox", np.float64).reshape(-1, 4)
        areas = column(annotations, "area", np.float64)
        with np.errstate(all="ignore"):  # boxes that are not finite are left out
            in_range = (areas >= 0) & (areas <= 1e10)  # which COCO's evaluation counts
            areas = np.where(in_range, areas, boxes[:, 2] * boxes[:, 3])

        def describe(i):
            row = annotations[i]
            box = f"the box {row['bbox']} (x, y, width, height)"
            return f"{path}: annotation {row.get('id')} of image {row['image_id']} has {box}"

        if report is not stop_at_fault:
            strange = [i for i in np.flatnonzero(~in_range) if annotations[i].get("area") is not None]
            kind, remedy = "annotations with a wrong area", "the box's area is taken"
            report(kind, strange, lambda i: f"{describe(i)} and area {annotations[i]['area']}", "", remedy, False)
        self._hold(
            of_source(path, split),
            folder,
            image_ids=column(images, "id", np.int64),
            file_names=[row["file_name"] for row in images],
            sizes=sizes,
            owners=owners,
            boxes=boxes,
            labels=labels,
            areas=areas,
            crowd=np.nan_to_num(column(annotations, "iscrowd", np.float64)) != 0,
            crowd_name="crowd regions",
            good=good_boxes(boxes, labels, owners, sizes, describe, bad_boxes, report),
            keep_empty=keep_empty,
        )


def _good_rows(path, content, report):
    """The file's images, annotations and categories that can be used."""
    whole, side = whole_number(), whole_number(minimum=1)
    categories = good_rows(path, "category", content["categories"], {"id": whole, "name": STRING}, report)
    categories = rows_with_own_id(path, "category", categories, report)
    for key in ("categories", "images"):
        if not content[key]:
            raise UserError(f"{path}: {key} is empty")
    named = {}
    for row in categories:
        named.setdefault(row["name"], []).append(str(row["id"]))
    again = [name for name, ids in named.items() if len(ids) > 1]

    def describe(name):
        return f"{path}: categories {' and '.join(named[name])} are both called {name!r}"

    report("duplicate category names", again, describe, f"{len(named)} names")
    expected = {"id": whole, "file_name": FILE_NAME, "height": side, "width": side}
    images = good_rows(path, "image", content["images"], expected, report)
    images = rows_with_own_id(path, "image", images, report)
    expected = {"image_id": whole, "category_id": whole, "bbox": FOUR_NUMBERS, "iscrowd": NUMBER, "area": NUMBER}
    annotations = good_rows(path, "annotation", content["annotations"], expected, report)
    listed = [row.get("id") for row in content["images"]]
    annotations = rows_with_known(path, annotations, "image_id", {i for i in listed if type(i) is int}, report)
    annotations = rows_with_known(path, annotations, "category_id", {row["id"] for row in categories}, report)
    if report is not stop_at_fault:
        tell = functools.partial(report, is_error=False)  # nothing of ours needs these ids
        with_id = [row for row in annotations if "id" in row]
        rows_with_own_id(path, "annotation", good_rows(path, "annotation", with_id, {"id": whole}, tell), tell)
    usable = {row["id"] for row in images}
    return images, [row for row in annotations if row["image_id"] in usable], categories
