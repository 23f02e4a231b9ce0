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
from typing import Any, Literal

import numpy as np
import torch
from torchvision import tv_tensors

from detlite.data.datasets.classes import DROPPED, IGNORED, OtherClasses, select_classes
from detlite.data.datasets.ground_truth import box_areas, coco_ground_truth
from detlite.data.datasets.split import Split, select_split
from detlite.data.faults import ImageError, stop_at_fault
from detlite.data.image_files import read_image
from detlite.errors import require

logger = logging.getLogger(__name__)

BAD_BOXES = {  # kind of fault: its words in a message
    "boxes that are not finite": "is not finite",
    "inverted boxes": "is inverted, of negative width or height",
    "boxes without area": "has no area",
    "boxes outside their image": "is outside its image",
}
REPEATED = "repeated objects"  # kind of fault


@dataclass
class Annotations:
    """A reader's images and objects, good and bad ones. Lists become arrays."""

    source: str  # origin of the annotations, for messages
    folder: str  # that file_names are relative to
    file_names: list[str]
    sizes: np.ndarray  # (N, 2) int64, (height, width)
    owners: np.ndarray  # (B,) int64, the index of each box's image, in any order
    boxes: np.ndarray  # (B, 4) float64
    names: list[str]  # the classes in the files
    labels: np.ndarray  # (B,) int64, 1 ... len(names)
    crowd: np.ndarray  # (B,) bool, the objects that evaluation ignores
    describe: Callable[[int], str]  # from the index of a box to text that names file, annotation and box
    image_ids: np.ndarray | None = None  # (N,) int64; by default 1 ... N
    areas: np.ndarray | None = None  # (B,) float64; by default the boxes'
    name_ids: list[int] | None = None  # COCO ids of the names; by default classes are numbered from 1
    lists_names: bool = True  # whether the files list their classes, so that names has those without objects
    classes_key: str = "CLASSES"  # the key that selects classes, for messages
    crowd_is: Literal["ignored", "background", "objects"] = "ignored"  # the part of crowd objects in training

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
    """Base of the readers. A reader's constructor calls :meth:`select_split` and, with its annotations, :meth:`load`.

    Args:
        other_classes: objects of a class that is not selected. "error" stops at one, "drop" leaves them out, and
            "ignore" excludes their regions from training and evaluation.
        split: "all" images; or, if they are not divided yet, "train" (four fifths, drawn by name) or "test" (the rest).
        folds: number of parts that split divides the images into; "test" is one of them, and "train" all others.
        fold: number of the part that is "test", from 0.
        keep_empty: whether images without objects to train on stay in the data set.
        bad_boxes: "error" stops at a box that is not finite, has no area or is outside its image; "skip" leaves it out.
        duplicates: "drop" leaves out objects with the same image, class and box as an earlier one.
    """

    # Words of messages that a subclass may replace. An empty _size_source is the annotations' source.
    _crowd_name, _size_source, _size_remedy = "crowd regions", "", ""

    def __init__(
        self,
        *,
        other_classes: OtherClasses = "error",
        split: Split = "all",
        folds: int = 5,
        fold: int = 0,
        keep_empty: bool = True,
        bad_boxes: Literal["error", "skip"] = "error",
        duplicates: Literal["keep", "drop"] = "keep",
    ):
        require(folds >= 2 and 0 <= fold < folds, "need folds >= 2 and 0 <= fold < folds", folds, fold)
        self._other_classes = other_classes
        self._division = split, folds, fold
        self._keep_empty = keep_empty
        self._bad_boxes = bad_boxes
        self._duplicates = duplicates

    def select_split(self, rows: list, file_names: list[str]) -> Any:
        """Return the rows of the split, from one row and one file name per image."""
        return select_split(rows, file_names, *self._division)

    def load(self, annotations: Any, report: Callable, classes: list[str]) -> None:
        """Hold the good objects of the selected classes, in their order, and log the number of all others.

        Arguments are :class:`Annotations`, and those of :func:`~detlite.data.datasets.classes.select_classes`.
        """
        if self._division[0] != "all":
            annotations.source += " (SPLIT {}, FOLDS {}, FOLD {})".format(*self._division)
        self._source = annotations.source
        self._folder = annotations.folder
        self._crowd_is = annotations.crowd_is

        # Select classes, boxes (B,) and images (N,).
        selected = select_classes(annotations, classes, self._other_classes, report)
        self.classes, self.category_ids, annotations.labels = selected
        good = check_boxes(annotations, self._bad_boxes, self._duplicates, report)
        repeated = np.zeros_like(good)
        if self._duplicates == "drop":
            repeated = good & _find_repeated(annotations)
            good &= ~repeated
        is_other = annotations.labels == IGNORED
        trained = good & ~is_other & (~annotations.crowd | (self._crowd_is == "objects"))
        counts = np.bincount(annotations.owners[trained], minlength=len(annotations.sizes))
        kept = (counts > 0) | self._keep_empty

        # Log how many are left out.
        left_out = {
            self._crowd_name: (good & ~is_other & ~trained).sum(),
            "ignored objects": (good & is_other).sum(),
            "duplicates": repeated.sum(),
            "bad boxes": (~good & ~repeated & (annotations.labels != DROPPED)).sum(),
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
        names = annotations.file_names
        if "\\" in "".join(names[:1]) and not os.path.exists(os.path.join(self._folder, names[0])):  # from Windows
            names = [name.replace("\\", "/") for name in names]
        names = [name.encode("utf-8", "surrogatepass") for name in names]
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
        self._crowd = torch.from_numpy(annotations.crowd[rows] | (annotations.labels[rows] == IGNORED))
        self._areas = torch.from_numpy(annotations.areas[rows])

    @property
    def sizes(self) -> np.ndarray:
        """(N, 2) int64 array of (height, width)."""
        return self._sizes.numpy()

    def __len__(self) -> int:
        return len(self._sizes)

    def image_file(self, index: int) -> str:
        """Return the path of image ``index``."""
        return os.path.join(self._folder, self._file_name(index))

    def _file_name(self, index):
        return bytes(self._names[index].tolist()).rstrip(b"\0").decode("utf-8", "surrogatepass")

    def __getitem__(self, index: int) -> tuple:
        """Return image ``index`` and its target.

        Raises:
            ImageError: the file is missing, cannot be read, or has another size than annotated.
        """
        index = range(len(self))[index]  # a negative index counts from the end
        path = self.image_file(index)
        height, width = self._sizes[index].tolist()
        image = read_image(path)
        if tuple(image.shape[-2:]) != (height, width):
            said = f"{self._size_source or self._source} says height {height} and width {width}"
            problem = f"{path}: the upright image has height {image.shape[-2]} and width {image.shape[-1]}, but {said}"
            text = f"{problem}. The boxes would be wrong{self._size_remedy}"
            raise ImageError(text, "images of another size than annotated")

        # Crowd objects, and objects of other classes, are not trained on.
        rows = slice(*self._starts[index : index + 2].tolist())
        boxes, labels = self._boxes[rows], self._labels[rows]
        boxes = torch.from_numpy(_clip(_corners(boxes.numpy()), self._sizes[index].numpy()))
        is_object = (labels != IGNORED) & (~self._crowd[rows] | (self._crowd_is == "objects"))
        is_ignored = ~is_object if self._crowd_is == "ignored" else labels == IGNORED
        boxes = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))
        selected = tv_tensors.wrap(boxes[is_object], like=boxes)
        target = {"boxes": selected, "labels": labels[is_object], "image_id": int(self._image_ids[index])}
        if is_ignored.any():
            target["ignored"] = tv_tensors.wrap(boxes[is_ignored], like=boxes)
        return image, target

    def coco(self) -> dict:
        """Return the ground truth as a COCO dict, with unclipped boxes and crowd objects.

        An ignored object of another class is a crowd object of each class, so a detection of any class may overlap it.
        """
        ids, names = self._image_ids.numpy(), map(self._file_name, range(len(self)))
        labels, num_classes = self._labels.numpy(), len(self.classes)
        is_other = labels == IGNORED
        rows = np.repeat(np.arange(len(labels)), np.where(is_other, num_classes, 1))
        labels = labels[rows]
        labels[labels == IGNORED] = np.tile(np.arange(1, num_classes + 1), is_other.sum())

        box_image_ids = np.repeat(ids, np.diff(self._starts.numpy()))[rows]
        boxes, areas, crowd = [values.numpy()[rows] for values in (self._boxes, self._areas, self._crowd)]
        objects = (box_image_ids, boxes, labels, areas, crowd)
        return coco_ground_truth(self.classes, self.category_ids, ids, names, self.sizes, *objects)


def check_boxes(annotations, bad_boxes, duplicates, report):
    """Report bad boxes, and return which boxes (B,) have an area in their image. Dropped boxes are neither.

    Bad boxes are errors if ``bad_boxes`` is "error", and warnings if it is "skip". One-pixel boxes, boxes that leave
    the image and duplicates are good; only a check reports them, as warnings, and duplicates only if they are kept.
    """
    boxes, sizes = annotations.boxes, annotations.sizes[annotations.owners]
    is_selected = annotations.labels != DROPPED
    corners = _corners(boxes)
    clipped = _clip(corners, sizes)

    def report_boxes(kind, mask, words, remedy, is_error=False):
        def describe(index):
            height, width = sizes[index]
            return f"{annotations.describe(index)}, which {words} (its image has width {width} and height {height})"

        report(kind, np.flatnonzero(mask & is_selected), describe, f"{is_selected.sum()} boxes", remedy, is_error)

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
        repeated = good & _find_repeated(annotations) & (duplicates == "keep")
        report_boxes(REPEATED, repeated, "is a duplicate", "DUPLICATES drop leaves out all but one of each")
    return good & is_selected


def _find_repeated(annotations):
    """Return which objects (B,) have the image, label and box of an earlier one."""
    objects = np.column_stack([annotations.owners, annotations.labels, annotations.boxes])
    repeated = np.ones(len(objects), bool)
    repeated[np.unique(objects, axis=0, return_index=True)[1]] = False
    return repeated


def _corners(boxes):
    """Convert (x, y, width, height) to (x1, y1, x2, y2), both (B, 4) float64."""
    with np.errstate(all="ignore"):  # boxes that are not finite are reported elsewhere
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _clip(corners, sizes):
    """Clip xyxy boxes (B, 4) to (height, width), (2,) or (B, 2), as float32."""
    return np.clip(corners, 0, sizes[..., [1, 0, 1, 0]]).astype(np.float32)
