"""Images in files, with their objects in memory: what the data sets of files share.

Letters: N images, B boxes of a whole data set, M objects of one image. Boxes are as in COCO's files here, float64
(x, y, width, height).

The annotations are a few flat tensors, so that worker processes do not copy them: forked ones share their pages (the
page of a Python object is copied as soon as its reference count is written, which reading does; pytorch#13246), and for
spawned ones torch moves a tensor into shared memory, once, where an array's values would be pickled for each.
"""

import logging
import os

import numpy as np
import torch
from torchvision import tv_tensors

from detlite.data.faults import ImageError, stop_at_fault
from detlite.data.image_files import read_image

logger = logging.getLogger(__name__)

BAD_BOXES = ("boxes that are not finite", "inverted boxes", "boxes without area", "boxes outside their image")


class AnnotatedImages:
    """Base of data sets of image files; a constructor ends with :meth:`_hold`."""

    _size_source, _size_remedy = "", ""  # for the message about an image that has another size than is annotated

    def _hold(
        self,
        source,
        folder,
        *,
        image_ids,
        file_names,
        sizes,
        owners,
        boxes,
        labels,
        crowd,
        crowd_name,
        good,
        keep_empty,
        areas=None,
        train_on_crowd=False,
    ):
        """Keep what is not left out, images in the given order, annotations by image; and log how many are left out.

        Args:
            source: what the annotations come from, for messages.
            folder: that file_names are relative to.
            image_ids: (N,) int64.
            file_names: N strings.
            sizes: (N, 2) int64 array of (height, width).
            owners: (B,) int64, the place of each box's image.
            boxes, labels: (B, 4) and (B,) int64, 1 ... K.
            crowd: (B,) bool, to be ignored in evaluation and, unless train_on_crowd, in training.
            crowd_name: what these are called in the log.
            good: (B,) bool, see :func:`good_boxes`; the others are left out.
            keep_empty: whether images without objects to train on stay.
            areas: (B,), if not the boxes'.
            train_on_crowd: whether crowd objects are trained on as all others are.
        """
        self._source = source
        self._folder = folder
        self._train_on_crowd = train_on_crowd
        if areas is None:
            with np.errstate(all="ignore"):  # boxes that are not finite are left out
                areas = boxes[:, 2] * boxes[:, 3]
        trained = good & (~crowd | self._train_on_crowd)
        counts = np.bincount(owners[trained], minlength=len(sizes))
        keep = np.full(len(sizes), True) if keep_empty else counts > 0
        left_out = {
            crowd_name: 0 if self._train_on_crowd else (crowd & good).sum(),
            "bad boxes": (~good).sum(),
            "images without objects": (~keep).sum(),
        }
        left_out = ", ".join(f"{count:,} {what}" for what, count in left_out.items() if count) or "nothing"
        empty = (counts[keep] == 0).sum()
        logger.info(
            f"{source}: {keep.sum():,} images, {trained.sum():,} objects; left out: {left_out}"
            + (f"; {empty:,} images without objects are kept (KEEP_EMPTY)" if empty else "")
        )
        order = np.argsort(owners, kind="stable")
        order = order[(good & keep[owners])[order]]
        owners = (np.cumsum(keep) - 1)[owners[order]]
        names = np.array([name.encode("utf-8", "surrogatepass") for name in file_names], np.bytes_)
        names = names.view(np.uint8).reshape(len(sizes), names.itemsize)
        self._image_ids, self._names, self._sizes = (
            torch.from_numpy(values[keep]) for values in (image_ids, names, sizes)
        )
        self._boxes, self._labels, self._crowd, self._areas = (
            torch.from_numpy(values[order]) for values in (boxes, labels, crowd, areas)
        )
        self._starts = torch.from_numpy(np.searchsorted(owners, np.arange(len(self._sizes) + 1)))

    @property
    def sizes(self):
        """(N, 2) int64 array of (height, width)."""
        return self._sizes.numpy()

    def __len__(self):
        return len(self._sizes)

    def image_file(self, index):
        """The path of image ``index``."""
        return os.path.join(self._folder, self._file_name(index))

    def _file_name(self, index):
        return bytes(self._names[index].tolist()).rstrip(b"\0").decode("utf-8", "surrogatepass")

    def __getitem__(self, index):
        """Image ``index`` and its objects.

        Raises:
            ImageError: the file is missing, cannot be read, or has another size than its annotations say.
        """
        index = range(len(self))[index]
        path = self.image_file(index)
        height, width = self._sizes[index].tolist()
        image = read_image(path)
        if tuple(image.shape[-2:]) != (height, width):
            says = f"{self._size_source or self._source} says height {height} and width {width}"
            raise ImageError(
                f"{path}: the image, upright as its EXIF data says, has height {image.shape[-2]} and width "
                f"{image.shape[-1]}, but {says}: its boxes would be wrong{self._size_remedy}",
                "images of another size than annotated",
            )
        rows = slice(*self._starts[index : index + 2].tolist())
        boxes, labels = self._boxes[rows], self._labels[rows]
        if not self._train_on_crowd:
            boxes, labels = boxes[~self._crowd[rows]], labels[~self._crowd[rows]]
        boxes = torch.from_numpy(_clip(_corners(boxes.numpy()), self._sizes[index].numpy()))
        return image, {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            "labels": labels.clone(),
            "image_id": int(self._image_ids[index]),
        }

    def coco(self):
        """The ground truth as a COCO dict: boxes not clipped, crowd too, annotations numbered from 1."""
        return coco_ground_truth(
            self.classes,
            self.category_ids,
            self._image_ids.numpy(),
            [self._file_name(index) for index in range(len(self))],
            self.sizes,
            np.repeat(self._image_ids.numpy(), np.diff(self._starts.numpy())),
            self._boxes.numpy(),
            self._labels.numpy(),
            self._areas.numpy(),
            self._crowd.numpy(),
        )


def good_boxes(boxes, labels, owners, sizes, describe, bad_boxes, report):
    """Which boxes have an area in their image; the others are reported.

    Boxes of one pixel, those that stick out by a pixel or more, and objects that are there twice, are good; a check is
    told of them.

    Args:
        boxes: (B, 4) float64, (x, y, width, height).
        labels: (B,) int64.
        owners: (B,) int64, the place of each box's image.
        sizes: (N, 2) int64 array of (height, width).
        describe: place of a box -> text that names file, annotation and box.
        bad_boxes: "error", or "skip" to go on without them.
        report: see :mod:`detlite.data.faults`.

    Returns:
        (B,) bool array.
    """
    sizes = sizes[owners]
    corners = _corners(boxes)
    clipped = _clip(corners, sizes)
    finite = np.isfinite(corners).all(axis=1)
    inverted = finite & (boxes[:, 2:] < 0).any(axis=1)
    flat = finite & ~inverted & (boxes[:, 2:] == 0).any(axis=1)
    good = finite & (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    bad = (
        (~finite, "is not finite"),
        (inverted, "is inverted, of negative width or height"),
        (flat, "has no area"),
        (finite & ~inverted & ~flat & ~good, "lies outside"),
    )

    def report_boxes(kind, where, what, remedy, is_error):
        def describe_bad(i):
            return f"{describe(i)}, which {what} (its image has width {sizes[i][1]} and height {sizes[i][0]})"

        report(kind, np.flatnonzero(where), describe_bad, f"{len(boxes)} boxes", remedy, is_error)

    for kind, (where, what) in zip(BAD_BOXES, bad, strict=True):
        remedy = "mend the file, or set BAD_BOXES to skip to leave them out"
        report_boxes(kind, where, what, remedy, bad_boxes == "error")
    if report is not stop_at_fault:
        tiny = good & (boxes[:, 2:] <= 1).any(axis=1)
        report_boxes("boxes of one pixel", tiny, "is no wider or higher than one pixel", "are they meant?", False)
        stick_out = good & (abs(corners - clipped) >= 1).any(axis=1)
        report_boxes("boxes that stick out", stick_out, "sticks out", "they are clipped to the image", False)
        again = np.full(len(boxes), True)
        again[np.unique(np.column_stack([owners, labels, boxes]), axis=0, return_index=True)[1]] = False
        report_boxes("repeated objects", again & good, "is there twice", "leave out all but one of each", False)
    return good


def _corners(boxes):
    """(x, y, width, height) to (x1, y1, x2, y2), both (B, 4) float64."""
    with np.errstate(all="ignore"):  # boxes that are not finite are reported
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _clip(corners, sizes):
    """(B, 4) float64 xyxy boxes clipped to (height, width), (2,) or one a box (B, 2), float32."""
    return np.clip(corners, 0, np.concatenate([sizes[..., ::-1], sizes[..., ::-1]], axis=-1)).astype(np.float32)


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
