"""Data in Pascal VOC's folders (http://host.robots.ox.ac.uk/pascal/VOC/).

Letters: N images, B boxes of a whole data set, M objects of one image. As in :mod:`detlite.data.coco`, the annotations
are held in a few flat arrays, so that forked workers share them.
"""

import logging
import os
import re
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from detlite.config.defaults import VOC_CLASSES
from detlite.data.coco import coco_ground_truth, read_image
from detlite.data.pascal_voc_file import read_annotation
from detlite.errors import UserError, suggest
from detlite.registry import DATASETS

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
EXIF_ORIENTATION = 0x0112


@DATASETS.register()
class PascalVOCDataset:
    """Images with an XML file each, in folders that hold Annotations, JPEGImages and ImageSets/Main.

    VOC counts pixels from 1, and xmax and ymax are the last ones inside; so 1 is subtracted from xmin and ymin, and
    from nothing else, which makes boxes (x1, y1, x2, y2) whose width is x2 - x1. Boxes that stick out are clipped to
    the image. Image ids are the positions in the data set, counted from 1.

    Objects marked ``difficult`` are not trained on unless asked for. ``coco()`` marks them ``iscrowd``, the only mark
    that COCO's evaluation heeds: to miss one costs nothing, and a detection that covers one (any number of them, even
    of a part of it) counts neither as right nor as wrong.

    Args:
        root: path of the folder that image_sets are relative to, such as VOCdevkit.
        image_sets: one or several lists of images, such as [VOC2007/trainval, VOC2012/trainval] for
            VOC2007/ImageSets/Main/trainval.txt and its like; or [train], if root itself holds Annotations.
        classes: the names; label k is the k-th name. VOC's 20 by default.
        use_difficult: whether difficult objects are trained on as all others are. Evaluation ignores them all the same.
        one_based: whether the files count pixels from 1, as VOC's do. false takes the boxes as they stand.
        keep_empty: whether images without objects (or with difficult ones alone) stay in the data set.
        bad_boxes: what to do about boxes that are incomplete, not finite, without area, or outside their image: "error"
            stops and names them, "skip" leaves them out and logs how many.
    """

    def __init__(
        self,
        *,
        root: str = "",
        image_sets: list[str] = (),
        classes: list[str] = VOC_CLASSES,
        use_difficult: bool = False,
        one_based: bool = True,
        keep_empty: bool = True,
        bad_boxes: Literal["error", "skip"] = "error",
    ):
        if not root or not image_sets:
            raise UserError(
                "PascalVOCDataset needs ROOT, the path of a folder, and IMAGE_SETS, such as [VOC2007/trainval]"
            )
        if len(set(classes)) < len(classes) or not classes:
            raise ValueError(f"classes: expected one or more different names, got {list(classes)}")
        self.classes = list(classes)
        self.category_ids = list(range(1, len(classes) + 1))
        self._use_difficult = use_difficult
        self._root = Path(os.path.expanduser(root))
        if not self._root.is_dir():
            raise UserError(f"{self._root}: no such folder (PascalVOCDataset's ROOT)")
        images, files = _find_images(self._root, image_sets)
        annotations = [read_annotation(file) for file in files]

        self._image_ids = np.arange(1, len(images) + 1)
        self._file_names = np.array([os.fsencode(image) for image in images], np.bytes_)
        sizes = [a.size if a.size[0] else _image_size(self._root / i) for a, i in zip(annotations, images, strict=True)]
        self.sizes = np.array(sizes, np.int64).reshape(-1, 2)
        owners = np.repeat(np.arange(len(images)), [len(annotation.names) for annotation in annotations])
        self._labels = self._read_labels(files, annotations)
        self._difficult = np.concatenate([annotation.difficult for annotation in annotations])
        self._boxes = np.concatenate([annotation.boxes for annotation in annotations])  # [B, 4] xyxy
        if one_based:
            self._boxes[:, :2] -= 1

        corners = _clip(self._boxes, self.sizes[owners])
        good = np.isfinite(self._boxes).all(axis=1) & (corners[:, 2:] > corners[:, :2]).all(axis=1)
        if not good.all():
            written = [box for annotation in annotations for box in annotation.written]
            first = np.flatnonzero(~good)[0]
            _report_bad_boxes(files[owners[first]], written[first], self.sizes[owners[first]], good, bad_boxes)
        empty = sum(annotation.empty for annotation in annotations)
        logger.info(
            f"{self._root}: {', '.join(image_sets)}: {len(images)} images, {(good & ~self._difficult).sum()} objects, "
            f"{(good & self._difficult).sum()} difficult ones"
            + (f"; {empty} <object> hold neither name nor box" if empty else "")
        )
        self._arrange(owners, good, keep_empty)

    def _read_labels(self, files, annotations):
        label = {name: k for k, name in enumerate(self.classes, start=1)}
        for file, annotation in zip(files, annotations, strict=True):
            for name in annotation.names:
                if name not in label:
                    raise UserError(
                        f"{file}: no class is called {name!r}{suggest(name, self.classes)}; "
                        "PascalVOCDataset's CLASSES lists the names"
                    )
        return np.array([label[name] for annotation in annotations for name in annotation.names], np.int64)

    def _arrange(self, owners, good, keep_empty):
        """Drop what is not kept; annotations are in the order of their images."""
        objects = np.bincount(owners[good & (~self._difficult | self._use_difficult)], minlength=len(self.sizes))
        keep = np.full(len(self.sizes), True) if keep_empty else objects > 0
        self._image_ids, self._file_names, self.sizes = (
            values[keep] for values in (self._image_ids, self._file_names, self.sizes)
        )
        rows = good & keep[owners]
        self._boxes, self._labels, self._difficult = (v[rows] for v in (self._boxes, self._labels, self._difficult))
        self._starts = np.searchsorted((np.cumsum(keep) - 1)[owners[rows]], np.arange(len(self.sizes) + 1))

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        """Image ``index`` and its objects.

        Raises:
            UserError: the file cannot be read, or has another size than its XML file says.
        """
        index = range(len(self))[index]
        path = self._root / os.fsdecode(self._file_names[index])
        height, width = self.sizes[index].tolist()
        image = read_image(path)
        if tuple(image.shape[-2:]) != (height, width):
            raise UserError(
                f"{path}: the image, upright as its EXIF data says, has height {image.shape[-2]} and width "
                f"{image.shape[-1]}, but its annotation says height {height} and width {width}: its boxes would be "
                "wrong; mend the file, or remove its <size>"
            )
        rows = np.arange(self._starts[index], self._starts[index + 1])
        rows = rows[~self._difficult[rows] | self._use_difficult]
        boxes = torch.from_numpy(_clip(self._boxes[rows], self.sizes[index]).astype(np.float32))
        return image, {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            "labels": torch.from_numpy(self._labels[rows]),
            "image_id": int(self._image_ids[index]),
        }

    def coco(self):
        """The ground truth as a COCO dict: boxes not clipped, difficult objects as crowd, annotations from 1 on."""
        return coco_ground_truth(
            self.classes,
            self.category_ids,
            self._image_ids,
            [os.fsdecode(name) for name in self._file_names],
            self.sizes,
            np.repeat(self._image_ids, np.diff(self._starts)),
            np.concatenate([self._boxes[:, :2], self._boxes[:, 2:] - self._boxes[:, :2]], axis=1),
            self._labels,
            crowd=self._difficult,
        )


def _find_images(root, image_sets):
    """The images of image sets, as paths below root, and the XML file of each."""
    images, files = [], []
    for image_set in image_sets:
        *folder, name = image_set.split("/")
        base = root.joinpath(*folder)
        path = base / "ImageSets" / "Main" / f"{name}.txt"
        if not path.is_file():
            found = [f for pattern in ("ImageSets/Main/*.txt", "*/ImageSets/Main/*.txt") for f in root.glob(pattern)]
            sets = [str(f.relative_to(root)).replace("ImageSets/Main/", "").removesuffix(".txt") for f in found]
            sets = [s for s in sets if not re.search(r"_(train|val|trainval|test)$", s)]  # VOC's, of single classes
            raise UserError(f"{path}: no such image set (PascalVOCDataset's IMAGE_SETS){suggest(image_set, sets)}")
        folder = _follow(base / "JPEGImages")
        for needed in (folder, base / "Annotations"):
            if not needed.is_dir():
                raise UserError(f"{needed}: no such folder, but {path} needs it")
        prefix, named = os.path.relpath(folder, root), os.listdir(folder)
        by_stem = {}
        for suffix in reversed(IMAGE_SUFFIXES):  # of two images that share a stem the earlier suffix is taken
            by_stem |= {file[: -len(suffix)]: file for file in named if file.lower().endswith(suffix)}
        for line in path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines():
            stem = line.strip()
            if not stem:
                continue
            if stem not in by_stem:
                raise UserError(f"{folder / stem}.jpg: no such image, but {path} lists it")
            images.append(os.path.join(prefix, by_stem[stem]))
            files.append(base / "Annotations" / f"{stem}.xml")
    if not images:
        raise UserError(f"{root}: {', '.join(image_sets)}: no image is listed")
    if len(set(images)) < len(images):
        twice = Counter(images).most_common(1)[0][0]
        raise UserError(f"{root / twice}: listed twice in {', '.join(image_sets)} (PascalVOCDataset's IMAGE_SETS)")
    return images, files


def _follow(folder):
    """The folder, or the one that it names: git without symbolic links and zip archives leave a link as its text."""
    if folder.is_file() and folder.stat().st_size < 1000:
        return folder.parent / folder.read_text(encoding="utf-8", errors="surrogateescape").strip()
    return folder


def _report_bad_boxes(file, written, size, good, bad_boxes):
    message = (
        f"{file}: a box is {written}, which has no area in an image of width {size[1]} and height {size[0]}; "
        f"{(~good).sum()} of {len(good)} boxes are of this kind"
    )
    if bad_boxes == "error":
        raise UserError(f"{message}; mend the file, or set BAD_BOXES to skip to leave them out")
    logger.warning(f"{message}, left out")


def _image_size(path):
    """(height, width) of an image, upright, from its header alone."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
    except Exception as error:  # a decoder at odds with a broken file raises anything
        raise UserError(f"{path}: cannot be read as an image: {error or type(error).__name__}") from error
    return (width, height) if turned else (height, width)


def _clip(boxes, sizes):
    """(B, 4) xyxy boxes clipped to (height, width), (2,) or one a box (B, 2)."""
    return np.clip(boxes, 0, np.concatenate([sizes[..., ::-1], sizes[..., ::-1]], axis=-1))
