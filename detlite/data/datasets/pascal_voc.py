"""Data in Pascal VOC's folders (http://host.robots.ox.ac.uk/pascal/VOC/)."""

import os
import re
from pathlib import Path

import numpy as np

from detlite.config.defaults import VOC_CLASSES
from detlite.data.datasets.base import AnnotatedImages, Annotations
from detlite.data.datasets.classes import Classes
from detlite.data.datasets.pascal_voc_xml import read_annotation
from detlite.data.faults import stop_at_fault
from detlite.data.image_files import IMAGE_SUFFIXES, read_size
from detlite.errors import UserError, nearest_path, require, suggest
from detlite.files import read_text
from detlite.registry import DATASETS


@DATASETS.register()
class PascalVOCDataset(AnnotatedImages):
    """Images with one XML file each, in the folders JPEGImages and Annotations.

    VOC counts pixels from 1, and xmax and ymax are the last pixels inside. Therefore 1 is subtracted from xmin and ymin
    only, which makes boxes (x1, y1, x2, y2) of width x2 - x1. Boxes that stick out are clipped to the image. Image ids
    are the positions in the data set, counted from 1.

    Objects marked ``difficult`` are background in training by default, which is py-faster-rcnn's rule. ``coco()`` marks
    them ``iscrowd``, the only mark that COCO's evaluation knows. Missing one costs nothing, and detections of one count
    neither as right nor as wrong.

    Args:
        report: function that receives faults, see :mod:`detlite.data.faults`.
        root: path of the folder that image_sets are relative to, such as VOCdevkit.
        image_sets: lists of images. VOC2007/trainval is the file VOC2007/ImageSets/Main/trainval.txt below root; train
            is ImageSets/Main/train.txt. A line may begin with a subfolder of annotations and images: farm/000001. No
            image sets means every XML file in annotations, with the image of the same name.
        annotations: the folder of the XML files, below the folder that holds ImageSets, or below root; "." for itself.
        images: the folder of the images, relative to the same folder as annotations.
        classes: the classes to use, in the order of their labels. An entry is a name, or a class that merges several,
            such as {vehicle: [car, bus]}. VOC's 20 by default.
        use_difficult: whether difficult objects are trained on like all others. Evaluation ignores them in any case.
        one_based: whether the files count pixels from 1, as VOC's do. false keeps the boxes unchanged.
    """

    _crowd_name = "difficult objects"
    _size_source, _size_remedy = "its annotation", "; correct the file, or remove its <size>"

    def __init__(
        self,
        report: object = stop_at_fault,
        *,
        root: str = "",
        image_sets: list[str] = (),
        annotations: str = "Annotations",
        images: str = "JPEGImages",
        classes: Classes = VOC_CLASSES,
        use_difficult: bool = False,
        one_based: bool = True,
        **kwargs: object,
    ):
        super().__init__(**kwargs)
        if not root:
            raise UserError("PascalVOCDataset needs ROOT, the path of a folder")
        require(classes, "CLASSES: expected one or more names", "none")
        root = Path(os.path.expanduser(root))
        if not root.is_dir():
            raise UserError(f"{root}: no such folder (PascalVOCDataset's ROOT){nearest_path(root)}")

        # The images of the split, and the content of their XML files.
        if image_sets:
            pairs = _find_listed_images(root, annotations, images, image_sets, report)
        else:
            pairs = _find_all_images(root, annotations, images, report)
        pairs = self.select_split(pairs, [image for image, _ in pairs])
        images, files = _read_files(pairs, report)
        sizes = []
        for image, file in zip(images, files, strict=True):
            sizes.append(file.size or read_size(root / image) or _room_for(file.objects))

        owners, labels, boxes, things, names = _read_objects(files, one_based)
        found = Annotations(
            source=f"{root}: {', '.join(image_sets) or f'all of {annotations}'}",
            folder=root,
            file_names=images,
            sizes=sizes,
            owners=owners,
            boxes=boxes,
            names=names,
            labels=labels,
            crowd=[thing.difficult for thing in things],
            describe=lambda index: things[index].describe(),
            crowd_is="objects" if use_difficult else "background",
            lists_names=False,
        )
        self.load(found, report, classes)


def _read_files(pairs, report):
    """Read (image, path of the XML file) pairs into images and AnnotationFiles.

    Files that cannot be read are reported, and so are tags without content.
    """
    images, files, unreadable = [], [], []
    count, empty, unsized = 0, [], []
    for image, path in pairs:
        try:
            file = read_annotation(path)
        except UserError as error:
            unreadable.append(str(error))
            continue
        images.append(image)
        files.append(file)
        count += len(file.objects) + file.empty
        empty += [path] * file.empty
        if file.has_size and not file.size:
            unsized.append(path)

    report("unreadable annotation files", unreadable, str, f"{len(pairs)} files")
    kind = "<object> that hold neither name nor box"
    report(kind, empty, lambda path: f"{path}: {kind}", f"{count} objects", is_error=False)
    if report is not stop_at_fault:  # only a check shows which sizes are read from the images
        size_kind, remedy = "annotations whose <size> is no size", "the image's own size is used"
        report(size_kind, unsized, lambda path: f"{path}: {size_kind}", f"{len(files)} files", remedy, False)
    return images, files


def _read_objects(files, one_based):
    """Return per object its file's index, label, box (x, y, width, height) and VOCObject; and the classes' names."""
    label_of = {}  # in the order of appearance
    shift = 1 if one_based else 0  # of the first pixel
    owners, labels, boxes, things = [], [], [], []
    for owner, file in enumerate(files):
        for thing in file.objects:
            xmin, ymin, xmax, ymax = thing.box
            x, y = xmin - shift, ymin - shift
            owners.append(owner)
            labels.append(label_of.setdefault(thing.name, len(label_of) + 1))
            boxes.append((x, y, xmax - x, ymax - y))
            things.append(thing)
    return owners, labels, boxes, things, list(label_of)


def _room_for(things):
    """Return a (height, width) with room for a damaged image's objects."""
    boxes = np.array([thing.box for thing in things]).reshape(-1, 4)
    corners = boxes[np.isfinite(boxes).all(axis=1)].clip(1, 2**31 - 1)
    width, height = np.ceil(corners[:, 2:].max(axis=0, initial=1)).astype(int).tolist()
    return height, width


def _find_listed_images(root, annotations, images, image_sets, report):
    """List (path of the image below root, path of the XML file) of image sets."""
    found, missing, repeated = {}, [], []
    for image_set in image_sets:
        *parents, name = image_set.split("/")
        base = root.joinpath(*parents)
        path = base / "ImageSets" / "Main" / f"{name}.txt"
        if not path.is_file():
            hint = suggest(image_set, _image_set_names(root))
            raise UserError(f"{path}: no such image set (PascalVOCDataset's IMAGE_SETS){hint}")

        # Lines are stems, maybe with a subfolder, and blank lines are none.
        folders = {}  # by subfolder
        lines = read_text(path, " (PascalVOCDataset's IMAGE_SETS)", errors="surrogateescape").splitlines()
        for line in filter(None, map(str.strip, lines)):
            subfolder, stem = os.path.split(line.replace("\\", "/").lstrip("/"))
            if subfolder not in folders:
                places = os.path.join(annotations, subfolder), os.path.join(images, subfolder)
                folders[subfolder] = _find_folders(root, base, *places, f"{path} needs it")
            folder, xml_folder, by_stem = folders[subfolder]
            image = by_stem.get(stem)
            if image is None:
                missing.append(f"{folder / stem}.jpg: no such image, but {path} lists it")
            elif image in found:
                sets = ", ".join(image_sets)
                repeated.append(f"{root / image}: listed twice in {sets} (PascalVOCDataset's IMAGE_SETS)")
            else:
                found[image] = xml_folder / f"{stem}.xml"

    total = f"{len(found) + len(missing) + len(repeated)} images"
    report("missing images", missing, str, total)
    report("images listed twice", repeated, str, total)
    if not found:
        raise UserError(missing[0] if missing else f"{root}: {', '.join(image_sets)}: no image is listed")
    return list(found.items())


def _image_set_names(root):
    """Return the names of image sets, without VOC's lists for single classes."""
    names = []
    for file in root.glob("**/ImageSets/Main/*.txt"):
        if not re.search(r"_(train|val|trainval|test)$", file.stem):
            names.append((file.parents[2] / file.stem).relative_to(root).as_posix())
    return names


def _find_all_images(root, annotations, images, report):
    """List (path of the image below root, path of the XML file) of all XML files."""
    hint = "IMAGE_SETS is empty: set it, or ANNOTATIONS and IMAGES, PascalVOCDataset's folders"
    folder, xml_folder, by_stem = _find_folders(root, root, annotations, images, hint)
    files = [path for path in sorted(xml_folder.iterdir()) if re.fullmatch(r"(?i)[^.].*\.xml", path.name)]
    missing = [path for path in files if path.stem not in by_stem]
    report("missing images", missing, lambda path: f"{path}: {folder} has no image of this name", f"{len(files)} files")

    kind, bare = "images without an XML file", sorted(set(by_stem) - {path.stem for path in files})
    report(kind, bare, lambda stem: f"{root / by_stem[stem]}: {kind}", f"{len(by_stem)} images", is_error=False)
    pairs = [(by_stem[path.stem], path) for path in files if path.stem in by_stem]
    if not pairs:
        raise UserError(f"{xml_folder}: holds no XML file with an image in {folder}")
    return pairs


def _find_folders(root, base, annotations, images, why):
    """Return the folders of images and XML files, and {stem: image below root}."""
    folder, xml_folder = base / images, base / annotations
    if folder.is_file() and folder.stat().st_size < 1000:  # a link, which git or a zip archive stored as a text file
        folder = folder.parent / read_text(folder, errors="surrogateescape").strip()
    for needed in (folder, xml_folder):
        if not needed.is_dir():
            raise UserError(f"{needed}: no such folder, but {why}{nearest_path(needed)}")

    # Of images with the same stem, the earliest suffix counts.
    prefix, names, by_stem = os.path.relpath(folder, root), os.listdir(folder), {}
    for suffix in reversed(IMAGE_SUFFIXES):
        for name in names:
            if name.lower().endswith(suffix):
                by_stem[name[: -len(suffix)]] = os.path.normpath(os.path.join(prefix, name))
    return folder, xml_folder, by_stem
