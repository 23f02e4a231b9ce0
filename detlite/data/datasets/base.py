"""Base of the data sets of image files, with their annotations in memory.

Letters: N images, B boxes of a whole data set, K classes. Boxes are float64 (x, y, width, height), as in COCO's files.

The annotations are a few flat tensors, so that worker processes do not copy them. Forked workers share a tensor's
memory, but copy the page of each Python object that they read, because its reference count changes (pytorch#13246).
For spawned workers torch moves a tensor into shared memory once; an array would be pickled for each worker.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torchvision import tv_tensors

from detlite.data.faults import ImageError, stop_at_fault
from detlite.data.image_files import read_image

logger = logging.getLogger(__name__)

BAD_BOXES = {  # kind of fault: its words in a message
    "boxes that are not finite": "is not finite",
    "inverted boxes": "is inverted, of negative width or height",
    "boxes without area": "has no area",
    "boxes outside their image": "is outside its image",
}


@dataclass
class Annotations:
    """A reader's images and objects, good and bad ones. Lists become arrays."""

    source: str  # origin of the annotations, for messages
    split: str  # "all" or the part of them, for messages
    folder: str  # that file_names are relative to
    file_names: list[str]
    sizes: np.ndarray  # (N, 2) int64, (height, width)
    owners: np.ndarray  # (B,) int64, the index of each box's image, in any order
    boxes: np.ndarray  # (B, 4) float64
    labels: np.ndarray  # (B,) int64, 1 ... K
    crowd: np.ndarray  # (B,) bool, the objects that evaluation ignores
    describe: Callable[[int], str]  # from the index of a box to text that names file, annotation and box
    image_ids: np.ndarray | None = None  # (N,) int64; by default 1 ... N
    areas: np.ndarray | None = None  # (B,) float64; by default the boxes'

    def __post_init__(self):
        self.sizes = np.asarray(self.sizes, np.int64).reshape(-1, 2)
        self.owners = np.asarray(self.owners, np.int64)
        self.boxes = np.asarray(self.boxes, np.float64).reshape(-1, 4)
        self.labels = np.asarray(self.labels, np.int64)
        self.crowd = np.asarray(self.crowd, bool)
        if self.image_ids is None:
            self.image_ids = np.arange(1, len(self.sizes) + 1)
        if self.areas is None:
            self.areas = box_areas(self.boxes)


class AnnotatedImages:
    """Images in files. Subclasses set ``classes`` and ``category_ids``.

    Args:
        annotations: :class:`Annotations`. The order of images, and of objects within an image, is kept.
        report: see :mod:`detlite.data.faults`.
        bad_boxes: see :func:`check_boxes`; bad boxes are left out.
        keep_empty: whether images without objects to train on stay.
        train_on_crowd: whether crowd objects are trained on like all others.
    """

    # Words of messages that a subclass may replace. An empty _size_source is the annotations' source.
    _crowd_name, _size_source, _size_remedy = "crowd regions", "", ""

    def __init__(self, annotations, report, *, bad_boxes, keep_empty, train_on_crowd=False):
        self._source = annotations.source
        if annotations.split != "all":
            self._source += f" (SPLIT {annotations.split})"
        self._folder = annotations.folder
        self._train_on_crowd = train_on_crowd

        # Select boxes (B,) and images (N,).
        good = check_boxes(annotations, bad_boxes, report)
        trained = good & (~annotations.crowd | train_on_crowd)
        counts = np.bincount(annotations.owners[trained], minlength=len(annotations.sizes))
        kept = (counts > 0) | keep_empty

        # Log how many are left out.
        left_out = {
            self._crowd_name: (good & ~trained).sum(),
            "bad boxes": (~good).sum(),
            "images without objects": (~kept).sum(),
        }
        left_out = ", ".join(f"{count:,} {name}" for name, count in left_out.items() if count) or "nothing"
        message = f"{kept.sum():,} images, {trained.sum():,} objects; left out: {left_out}"
        if empty := (counts[kept] == 0).sum():
            message += f"; {empty:,} images without objects are kept (KEEP_EMPTY)"
        logger.info(f"{self._source}: {message}")
        self._hold(annotations, kept, good)

    def _hold(self, annotations, kept, good):
        """Hold the kept images (N,) and their good boxes (B,) as flat tensors."""
        names = [name.encode("utf-8", "surrogatepass") for name in annotations.file_names]
        names = np.array(names, np.bytes_)  # zero bytes pad all to the same length
        names = names.view(np.uint8).reshape(len(names), names.itemsize)
        self._names = torch.from_numpy(names[kept])
        self._image_ids = torch.from_numpy(annotations.image_ids[kept])
        self._sizes = torch.from_numpy(annotations.sizes[kept])

        # Objects are sorted by image, and _starts cuts their rows by image. Three images with 2, 0 and 3 objects:
        #   image      0       1   2
        #   _boxes   | b0  b1 |   | b2  b3  b4 |   so are _labels, _crowd and _areas
        #   _starts  0        2   2            5   image i has the rows _starts[i] : _starts[i + 1]
        owners = annotations.owners
        rows = np.argsort(owners, kind="stable")
        rows = rows[(good & kept[owners])[rows]]
        counts = np.bincount(owners[rows], minlength=len(kept))[kept]
        self._starts = torch.from_numpy(np.insert(np.cumsum(counts), 0, 0))
        self._boxes = torch.from_numpy(annotations.boxes[rows])
        self._labels = torch.from_numpy(annotations.labels[rows])
        self._crowd = torch.from_numpy(annotations.crowd[rows])
        self._areas = torch.from_numpy(annotations.areas[rows])

    @property
    def sizes(self):
        """(N, 2) int64 array of (height, width)."""
        return self._sizes.numpy()

    def __len__(self):
        return len(self._sizes)

    def image_file(self, index):
        """Return the path of image ``index``."""
        return os.path.join(self._folder, self._file_name(index))

    def _file_name(self, index):
        return bytes(self._names[index].tolist()).rstrip(b"\0").decode("utf-8", "surrogatepass")

    def __getitem__(self, index):
        """Return image ``index`` and its target.

        Raises:
            ImageError: the file is missing, cannot be read, or has another size than annotated.
        """
        index = range(len(self))[index]  # a negative index counts from the end
        path = self.image_file(index)
        height, width = self._sizes[index].tolist()
        image = read_image(path)
        if tuple(image.shape[-2:]) != (height, width):
            raise ImageError(
                f"{path}: the upright image has height {image.shape[-2]} and width {image.shape[-1]}, but "
                f"{self._size_source or self._source} says height {height} and width {width}. "
                f"The boxes would be wrong{self._size_remedy}",
                "images of another size than annotated",
            )

        # Crowd objects are for evaluation only.
        rows = slice(*self._starts[index : index + 2].tolist())
        boxes, labels = self._boxes[rows], self._labels[rows]
        if not self._train_on_crowd:
            is_object = ~self._crowd[rows]
            boxes, labels = boxes[is_object], labels[is_object]
        boxes = torch.from_numpy(_clip(_corners(boxes.numpy()), self._sizes[index].numpy()))
        return image, {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            "labels": labels.clone(),
            "image_id": int(self._image_ids[index]),
        }

    def coco(self):
        """Return the ground truth as a COCO dict, with unclipped boxes and crowd objects."""
        ids, names = self._image_ids.numpy(), map(self._file_name, range(len(self)))
        box_image_ids = np.repeat(ids, np.diff(self._starts.numpy()))
        objects = [values.numpy() for values in (self._boxes, self._labels, self._areas, self._crowd)]
        return coco_ground_truth(self.classes, self.category_ids, ids, names, self.sizes, box_image_ids, *objects)


def check_boxes(annotations, bad_boxes, report):
    """Report bad boxes, and return which boxes (B,) have an area in their image.

    Bad boxes are errors if ``bad_boxes`` is "error", and warnings if it is "skip". One-pixel boxes, boxes that leave
    the image and duplicates are good; only a check reports them, as warnings.
    """
    boxes, sizes = annotations.boxes, annotations.sizes[annotations.owners]
    corners = _corners(boxes)
    clipped = _clip(corners, sizes)

    def report_boxes(kind, mask, words, remedy, is_error=False):
        def describe(index):
            height, width = sizes[index]
            return f"{annotations.describe(index)}, which {words} (its image has width {width} and height {height})"

        report(kind, np.flatnonzero(mask), describe, f"{len(boxes)} boxes", remedy, is_error)

    # A bad box is of one kind only.
    finite = np.isfinite(corners).all(axis=1)
    inverted = finite & (boxes[:, 2:] < 0).any(axis=1)
    flat = finite & ~inverted & (boxes[:, 2:] == 0).any(axis=1)
    good = finite & (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    outside = finite & ~inverted & ~flat & ~good
    for kind, mask in zip(BAD_BOXES, (~finite, inverted, flat, outside), strict=True):
        remedy = "fix the file, or set BAD_BOXES to skip to leave them out"
        report_boxes(kind, mask, BAD_BOXES[kind], remedy, bad_boxes == "error")

    # Good boxes that may be mistakes. Finding them takes time, and only a check reports them.
    if report is not stop_at_fault:
        tiny = good & (boxes[:, 2:] <= 1).any(axis=1)
        report_boxes("boxes of one pixel", tiny, "is at most one pixel wide or high", "check that they are intended")
        leaving = good & (abs(corners - clipped) >= 1).any(axis=1)
        report_boxes("boxes that stick out", leaving, "sticks out", "they are clipped to the image")
        repeated = good.copy()
        objects = np.column_stack([annotations.owners, annotations.labels, boxes])
        repeated[np.unique(objects, axis=0, return_index=True)[1]] = False
        report_boxes("repeated objects", repeated, "is a duplicate", "leave out all but one of each")
    return good


def box_areas(boxes):
    """Return the areas (B,) of boxes (B, 4)."""
    with np.errstate(all="ignore"):  # boxes that are not finite are reported elsewhere
        return boxes[:, 2] * boxes[:, 3]


def _corners(boxes):
    """Convert (x, y, width, height) to (x1, y1, x2, y2), both (B, 4) float64."""
    with np.errstate(all="ignore"):  # boxes that are not finite are reported elsewhere
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _clip(corners, sizes):
    """Clip xyxy boxes (B, 4) to (height, width), (2,) or (B, 2), as float32."""
    return np.clip(corners, 0, sizes[..., [1, 0, 1, 0]]).astype(np.float32)


def coco_ground_truth(
    classes, category_ids, image_ids, file_names, sizes, box_image_ids, boxes, labels, areas=None, crowd=None
):
    """Build a COCO dict from arrays, with all keys that pycocotools needs.

    Args:
        classes, category_ids: K names and their COCO ids.
        image_ids, file_names, sizes: of N images; sizes is an (N, 2) int array of (height, width).
        box_image_ids: (B,) array, the id of each box's image.
        boxes, labels: (B, 4) array of (x, y, width, height), and (B,) int array, 1 ... K.
        areas: (B,) array; by default the boxes' areas.
        crowd: (B,) bool array of regions to ignore; by default none.

    Returns:
        dict of the lists "images", "annotations" and "categories". Annotations are numbered from 1, because pycocotools
        counts annotation 0 as missed.
    """
    areas = box_areas(boxes) if areas is None else areas
    crowd = np.zeros(len(boxes), bool) if crowd is None else crowd
    heights, widths = np.transpose(sizes).tolist()
    images = {"id": np.asarray(image_ids).tolist(), "file_name": file_names, "height": heights, "width": widths}
    annotations = {
        "image_id": box_image_ids.tolist(),
        "category_id": np.array(category_ids)[labels - 1].tolist(),
        "bbox": boxes.tolist(),
        "area": areas.tolist(),
        "iscrowd": crowd.astype(int).tolist(),
        "id": range(1, len(boxes) + 1),
    }
    categories = {"id": category_ids, "name": classes}
    return {"images": _rows(images), "annotations": _rows(annotations), "categories": _rows(categories)}


def _rows(columns):
    """Turn {key: values} into a list of dicts."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
