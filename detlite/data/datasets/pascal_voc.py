"""Data in Pascal VOC's folders (http://host.robots.ox.ac.uk/pascal/VOC/).

Letters: B boxes of a whole data set, M objects of one image.
"""

import logging
import os
import re
from pathlib import Path
from typing import Literal

import numpy as np

from detlite.config.defaults import VOC_CLASSES
from detlite.data.datasets.base import AnnotatedImages, good_boxes
from detlite.data.datasets.pascal_voc_xml import read_annotation
from detlite.data.datasets.split import Split, of_source, of_split
from detlite.data.faults import ImageError, stop_at_fault
from detlite.data.image_files import IMAGE_SUFFIXES, read_header
from detlite.errors import UserError, nearest_path, suggest
from detlite.registry import DATASETS

logger = logging.getLogger(__name__)


@DATASETS.register()
class PascalVOCDataset(AnnotatedImages):
    """Images with an XML file each, in folders that hold Annotations, JPEGImages and maybe ImageSets/Main.

    VOC counts pixels from 1, and xmax and ymax are the last ones inside; so 1 is subtracted from xmin and ymin, and
    from nothing else, which makes boxes (x1, y1, x2, y2) whose width is x2 - x1. Boxes that stick out are clipped to
    the image. Image ids are the positions in the data set, counted from 1.

    Objects marked ``difficult`` are not trained on unless asked for. ``coco()`` marks them ``iscrowd``, the only mark
    that COCO's evaluation heeds: to miss one costs nothing, and a detection that covers one (any number of them, even
    of a part of it) counts neither as right nor as wrong.

    Args:
        report: what is done about faults, see :mod:`detlite.data.faults`.
        root: path of the folder that image_sets are relative to, such as VOCdevkit.
        image_sets: one or several lists of images, such as [VOC2007/trainval, VOC2012/trainval] for
            VOC2007/ImageSets/Main/trainval.txt and its like; or [train], if root itself holds Annotations. Empty for
            every XML file in annotations, whose image is the one of the same name.
        annotations: the folder of the XML files, relative to the one that holds ImageSets, or to root; "." for itself.
        images: the folder of the images, likewise.
        classes: the names; label k is the k-th name. VOC's 20 by default.
        use_difficult: whether difficult objects are trained on as all others are. Evaluation ignores them all the same.
        one_based: whether the files count pixels from 1, as VOC's do. false takes the boxes as they stand.
        split: all images; or, if they are not divided yet, train, four fifths drawn by their names, or test, the rest.
        keep_empty: whether images without objects (or with difficult ones alone) stay in the data set.
        bad_boxes: what to do about boxes that are incomplete, not finite, without area, or outside their image: "error"
            stops and names them, "skip" leaves them out and logs how many.
    """

    _size_source, _size_remedy = "its annotation", "; mend the file, or remove its <size>"

    def __init__(
        self,
        report=stop_at_fault,
        *,
        root: str = "",
        image_sets: list[str] = (),
        annotations: str = "Annotations",
        images: str = "JPEGImages",
        classes: list[str] = VOC_CLASSES,
        use_difficult: bool = False,
        one_based: bool = True,
        split: Split = "all",
        keep_empty: bool = True,
        bad_boxes: Literal["error", "skip"] = "error",
    ):
        if not root:
            raise UserError("PascalVOCDataset needs ROOT, the path of a folder")
        if len(set(classes)) < len(classes) or not classes:
            raise ValueError(f"classes: expected one or more different names, got {list(classes)}")
        self.classes = list(classes)
        self.category_ids = list(range(1, len(classes) + 1))
        root = Path(os.path.expanduser(root))
        if not root.is_dir():
            raise UserError(f"{root}: no such folder (PascalVOCDataset's ROOT){nearest_path(root)}")
        find = _find_images if image_sets else _find_all_images
        found = find(root, annotations, images, report, image_sets)
        images, files = (of_split(rows, found[0], split) for rows in found)
        images, files, annotations = _read_annotations(images, files, report)
        sizes = [
            a.size if a.size[0] else _size_of(root / image, a) for a, image in zip(annotations, images, strict=True)
        ]
        objects = [(i, m) for i, annotation in enumerate(annotations) for m in range(len(annotation.names))]
        objects = self._with_known_class(files, annotations, objects, report)
        owners = np.array([i for i, _ in objects], np.int64)
        names = [annotations[i].names[m] for i, m in objects]
        boxes = np.array([annotations[i].boxes[m] for i, m in objects], np.float64).reshape(-1, 4)
        if one_based:
            boxes[:, :2] -= 1
        boxes[:, 2:] -= boxes[:, :2]
        sizes = np.array(sizes, np.int64).reshape(-1, 2)
        labels = np.array([self.classes.index(name) + 1 for name in names], np.int64)

        def describe(b):
            i, m = objects[b]
            return f"{files[i]}: object {m + 1}, {names[b]}, has the box {annotations[i].written[m]}"

        empty = [file for file, a in zip(files, annotations, strict=True) for _ in range(a.empty)]
        kind = "<object> that hold neither name nor box"
        report(kind, empty, lambda file: f"{file}: {kind}", f"{len(objects) + len(empty)} objects", is_error=False)
        if report is not stop_at_fault:
            unsized = [file for file, a in zip(files, annotations, strict=True) if a.says_size and not a.size[0]]
            kind, remedy = "annotations whose <size> is no size", "the image's own is taken"
            report(kind, unsized, lambda file: f"{file}: {kind}", "", remedy, False)
        self._hold(
            of_source(f"{root}: {', '.join(image_sets) or 'all annotations'}", split),
            root,
            image_ids=np.arange(1, len(images) + 1),
            file_names=images,
            sizes=sizes,
            owners=owners,
            boxes=boxes,
            labels=labels,
            crowd=np.array([annotations[i].difficult[m] for i, m in objects], bool),
            crowd_name="difficult objects",
            train_on_crowd=use_difficult,
            good=good_boxes(boxes, labels, owners, sizes, describe, bad_boxes, report),
            keep_empty=keep_empty,
        )

    def _with_known_class(self, files, annotations, objects, report):
        """The objects, (place of the file, place in it), whose class is one of ours."""
        known = set(self.classes)
        strange = [(i, m) for i, m in objects if annotations[i].names[m] not in known]
        if not strange:
            return objects

        def describe(place):
            i, m = place
            name = annotations[i].names[m]
            box = f"object {m + 1}, {annotations[i].written[m]}"
            return f"{files[i]}: no class is called {name!r}{suggest(name, self.classes)}, as {box} is"

        remedy = "PascalVOCDataset's CLASSES lists the names"
        report("annotations of unknown categories", strange, describe, f"{len(objects)} objects", remedy)
        return [(i, m) for i, m in objects if annotations[i].names[m] in known]


def _read_annotations(images, files, report):
    """Images, their XML files, and what stands in these; without the files that cannot be read."""
    read, unreadable = [], {}
    for image, file in zip(images, files, strict=True):
        try:
            read.append((image, file, read_annotation(file)))
        except UserError as error:
            if report is stop_at_fault:
                raise
            unreadable[file] = str(error)
    report("unreadable annotation files", list(unreadable), unreadable.get, f"{len(files)} files")
    return tuple(map(list, zip(*read, strict=True))) or ([], [], [])


def _size_of(path, annotation):
    """(height, width) as annotated, or from the image; if that is damaged, room for the boxes: reading it will tell."""
    if annotation.size[0]:
        return annotation.size
    try:
        return read_header(path)[0]
    except ImageError:
        corners = annotation.boxes[np.isfinite(annotation.boxes).all(axis=1)].clip(1, 2**31 - 1)
        width, height = np.ceil(corners[:, 2:].max(axis=0, initial=1)).astype(int).tolist()
        return height, width


def _find_images(root, annotations, images, report, image_sets):
    """The images of image sets, as paths below root, and the XML file of each."""
    listed, missing, again = {}, [], []
    for image_set in image_sets:
        *folder, name = image_set.split("/")
        base = root.joinpath(*folder)
        path = base / "ImageSets" / "Main" / f"{name}.txt"
        if not path.is_file():
            found = [f for pattern in ("ImageSets/Main/*.txt", "*/ImageSets/Main/*.txt") for f in root.glob(pattern)]
            sets = [str(f.relative_to(root)).replace("ImageSets/Main/", "").removesuffix(".txt") for f in found]
            sets = [s for s in sets if not re.search(r"_(train|val|trainval|test)$", s)]  # VOC's, of single classes
            raise UserError(f"{path}: no such image set (PascalVOCDataset's IMAGE_SETS){suggest(image_set, sets)}")
        folder, xml_folder = _folders(base, annotations, images, f"{path} needs it")
        prefix, by_stem = os.path.relpath(folder, root), _images_by_stem(folder)
        for line in path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines():
            stem = line.strip()
            if not stem:
                continue
            image = os.path.normpath(os.path.join(prefix, by_stem.get(stem, "")))
            if stem not in by_stem:
                missing.append(f"{folder / stem}.jpg: no such image, but {path} lists it")
            elif image in listed:
                again.append(f"{root / image}: listed twice in {', '.join(image_sets)} (PascalVOCDataset's IMAGE_SETS)")
            else:
                listed[image] = xml_folder / f"{stem}.xml"
    total = f"{len(listed) + len(missing) + len(again)} images"
    report("missing images", missing, str, total)
    report("images listed twice", again, str, total)
    if not listed:
        raise UserError(f"{root}: {', '.join(image_sets)}: no image is listed")
    return list(listed), list(listed.values())


def _find_all_images(root, annotations, images, report, _):
    """The images that have an XML file, as paths below root, and that file of each."""
    hint = "IMAGE_SETS is empty: set it, or ANNOTATIONS and IMAGES, PascalVOCDataset's folders"
    folder, xml_folder = _folders(root, annotations, images, hint)
    files = sorted(path for path in xml_folder.iterdir() if path.suffix.lower() == ".xml")
    prefix, by_stem = os.path.relpath(folder, root), _images_by_stem(folder)
    missing = [path for path in files if path.stem not in by_stem]
    report("missing images", missing, lambda path: f"{path}: {folder} has no image of this name", f"{len(files)} files")
    bare = sorted(set(by_stem) - {path.stem for path in files})
    kind = "images without an XML file"
    report(kind, bare, lambda stem: f"{folder / by_stem[stem]}: {kind}", f"{len(by_stem)} images", "", False)
    files = [path for path in files if path.stem in by_stem]
    if not files:
        raise UserError(f"{xml_folder}: holds no XML file with an image in {folder}")
    return [os.path.normpath(os.path.join(prefix, by_stem[path.stem])) for path in files], files


def _folders(base, annotations, images, why):
    folder, xml_folder = _follow(base / images), base / annotations
    for needed in (folder, xml_folder):
        if not needed.is_dir():
            raise UserError(f"{needed}: no such folder, but {why}{nearest_path(needed)}")
    return folder, xml_folder


def _images_by_stem(folder):
    """{name without suffix: file's name}; of two images that share one the earlier suffix is taken."""
    named, by_stem = os.listdir(folder), {}
    for suffix in reversed(IMAGE_SUFFIXES):
        by_stem |= {file[: -len(suffix)]: file for file in named if file.lower().endswith(suffix)}
    return by_stem


def _follow(folder):
    """The folder, or the one that it names: git without symbolic links and zip archives leave a link as its text."""
    if folder.is_file() and folder.stat().st_size < 1000:
        return folder.parent / folder.read_text(encoding="utf-8", errors="surrogateescape").strip()
    return folder
