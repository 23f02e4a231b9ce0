"""Data in YOLO's format: one text file per image, one object per line."""

import glob
import os
from collections import Counter
from pathlib import Path

from detlite.data.datasets.base import AnnotatedImages, Annotations
from detlite.data.datasets.classes import Classes
from detlite.data.faults import stop_at_fault
from detlite.data.image_files import IMAGE_SUFFIXES, read_size
from detlite.errors import UserError, nearest_path, require
from detlite.files import read_text
from detlite.registry import DATASETS

UNKNOWN_SIZE = (1000, 1000)  # of a damaged image, which fails when it is read


class LineError(ValueError):
    """A line that is no object. Its arguments: kind of fault, expected line."""


@DATASETS.register()
class YoloDataset(AnnotatedImages):
    """Images with one text file of labels each, as for Darknet and Ultralytics.

    The labels of ``images/train/a.jpg`` are in ``labels/train/a.txt`` (the last folder called images becomes labels) or
    next to the image. An image without such a file has no objects. A line is a class, counted from 0, and four
    fractions of the upright image's width or height: center x, center y, width, height. A polygon (class, x, y, x, y,
    ...; three points or more) counts as the box around it. Any other line is a fault. Boxes that stick out are clipped
    to the image. Image ids are the positions in the data set, counted from 1.

    Args:
        report: function that receives faults, see :mod:`detlite.data.faults`.
        root: the folder that images are relative to; empty for the current one.
        images: folders, with all images in and below them, or text files with the path of one image per line.
        classes: class names; the files' class k is ``classes[k]``, from 0.
        keep_classes: the classes to use, in the order of their labels. An entry is a name, or a class that merges
            several, such as {vehicle: [car, bus]}. Empty for all of classes.
    """

    def __init__(
        self,
        report: object = stop_at_fault,
        *,
        root: str = "",
        images: list[str] = (),
        classes: list[str] = (),
        keep_classes: Classes = (),
        **kwargs: object,
    ):
        super().__init__(**kwargs)
        if not images or not classes:
            raise UserError("YoloDataset needs IMAGES, folders such as [images/train], and CLASSES, their names")
        require(len(set(classes)) == len(classes), "classes: expected different names", list(classes))

        # The images of the split, and each image's file of labels, None if it has no objects.
        root, images = os.path.expanduser(root), list(map(os.path.expanduser, images))
        names = find_images(root, images, report)
        if all(os.path.isdir(os.path.join(root, entry)) for entry in images):  # a list may leave images out
            _report_labels_alone(root, names, report)
        names = self.select_split(names, names)
        paths = [os.path.join(root, name) for name in names]
        files = [find_label_file(root, name) for name in names]
        if not any(files):
            expected = " or ".join(map(str, label_files(root, names[0])))
            others = f"any other of {len(names)} images"
            raise UserError(f"{paths[0]}: neither this nor {others} has a file of labels; expected {expected}")

        sizes = [read_size(path) or UNKNOWN_SIZE for path in paths]
        owners, labels, boxes, lines = _read_objects(files, sizes, len(classes), report)

        def describe(index):
            file, number, text = lines[index]
            return f"{file}:{number}: has the box {text!r}"

        annotations = Annotations(
            source=f"{root or '.'}: {', '.join(images)}",
            folder=root,
            file_names=names,
            sizes=sizes,
            owners=owners,
            boxes=boxes,
            names=list(classes),
            labels=labels,
            crowd=[False] * len(labels),
            describe=describe,
            classes_key="KEEP_CLASSES",
        )
        self.load(annotations, report, keep_classes)


def _read_objects(files, sizes, num_classes, report):
    """Read the objects of all images, and report unreadable files and lines.

    Returns:
        lists with one entry per object: index of the image; label; box (x, y, width, height) in pixels; and (file,
        number of the line, line).
    """
    owners, labels, boxes, lines = [], [], [], []
    unreadable, faults = [], {}
    for owner, file in enumerate(files):
        try:
            texts = read_text(file, errors="replace").splitlines() if file else []
        except UserError as error:
            unreadable.append(str(error))
            continue

        # From fractions to pixels.
        height, width = sizes[owner]
        for number, text in enumerate(texts, start=1):
            if not text.strip():
                continue
            try:
                class_index, (x, y, w, h) = parse_line(text, num_classes)
            except LineError as error:
                kind, expected = error.args
                faults.setdefault(kind, []).append(f"{file}:{number}: {expected}, got {text!r}")
                continue
            owners.append(owner)
            labels.append(class_index + 1)
            boxes.append((x * width, y * height, w * width, h * height))
            lines.append((file, number, text))

    # All faults of one kind are reported together.
    report("unreadable files of labels", unreadable, str, f"{len(files)} images")
    total = f"{len(lines) + sum(map(len, faults.values()))} lines"
    for kind, messages in faults.items():
        report(kind, messages, str, total)
    return owners, labels, boxes, lines


def parse_line(text, num_classes):
    """Parse one line, which is not blank, or raise a LineError.

    Returns:
        class, 0 ... num_classes - 1, and box (x, y, width, height) as fractions of the image.

    >>> parse_line("1 0.5 0.25 0.5 0.125", 2), parse_line("0 0.5 0.25 1 0.25 0.75 0.75", 2)
    ((1, (0.25, 0.1875, 0.5, 0.125)), (0, (0.5, 0.25, 0.5, 0.5)))
    """
    try:
        number, *values = map(float, text.split())
    except ValueError:
        values = []
    is_polygon = len(values) >= 6 and len(values) % 2 == 0
    if len(values) != 4 and not is_polygon:
        expected = "expected class, center x, center y, width, height, or class and a polygon"
        raise LineError("lines that are no object", expected)
    if not (number.is_integer() and 0 <= number < num_classes):
        expected = f"expected a class from 0 to {num_classes - 1} (see CLASSES)"
        raise LineError("annotations of unknown categories", expected)

    # The box around a polygon, or a box whose center is given.
    if is_polygon:
        x, y = min(values[::2]), min(values[1::2])
        return int(number), (x, y, max(values[::2]) - x, max(values[1::2]) - y)
    x, y, width, height = values
    return int(number), (x - width / 2, y - height / 2, width, height)


def find_images(root, entries, report=stop_at_fault):
    """Return the images of folders and lists, as paths below root, in order.

    An entry is a folder, or a text file of paths, relative to the file or to root. Images that are missing or listed
    twice are reported; if an entry is missing, or there is no image, a UserError is raised.
    """
    found, missing = [], []
    for entry in entries:
        path = Path(root, entry)
        if path.is_dir():
            # Unlike rglob, glob follows links and leaves out hidden files.
            for file in sorted(map(Path, glob.glob(f"{glob.escape(str(path))}/**/*", recursive=True))):
                if file.suffix.lower() in IMAGE_SUFFIXES:
                    found.append(os.path.normpath(os.path.join(entry, file.relative_to(path))))
        elif path.is_file() and path.suffix == ".txt":
            for number, line in enumerate(read_text(path, errors="replace").splitlines(), start=1):
                image = line.strip().replace("\\", "/")  # Windows
                candidates = map(os.path.normpath, (os.path.join(os.path.dirname(entry), image), image))
                existing = [name for name in candidates if os.path.isfile(os.path.join(root, name))]
                if existing:
                    found.append(existing[0])
                elif image:
                    missing.append(f"{path}:{number}: {image}: no such image")
        else:
            what = "no such folder, nor a .txt file of images' paths (YoloDataset's IMAGES)"
            raise UserError(f"{path}: {what}{nearest_path(path)}")

    total = f"{len(found) + len(missing)} images"
    report("missing images", missing, str, total)
    counts = Counter(found)
    repeated = [image for image in counts if counts[image] > 1]
    report("images listed twice", repeated, lambda image: f"{os.path.join(root, image)}: listed twice", total)
    if not found:
        raise UserError(f"{Path(root)}: {', '.join(entries)}: there is no image ({', '.join(IMAGE_SUFFIXES)})")
    return list(counts)


def label_files(root, name):
    """Return the possible files of an image's labels, likelier first.

    >>> [str(path) for path in label_files("data", "images/train/images/a.jpg")]
    ['data/images/train/labels/a.txt', 'data/images/train/images/a.txt']
    """
    next_to_image = Path(root, name).with_suffix(".txt")
    *folders, file = Path(name).with_suffix(".txt").parts
    if "images" not in folders:
        return [next_to_image]
    last = len(folders) - 1 - folders[::-1].index("images")
    folders[last] = "labels"
    return [Path(root, *folders, file), next_to_image]


def find_label_file(root, name):
    """Return the existing file of an image's labels, readable or not, or None."""
    return next(filter(os.path.lexists, label_files(root, name)), None)


def _report_labels_alone(root, names, report):
    """Report files in folders of labels whose image is gone; ``names`` are the images of all splits."""
    existing = set()
    for folder in set(map(os.path.dirname, names)):
        first, *others = label_files(root, os.path.join(folder, "any.png"))
        if others:  # otherwise the labels are next to the images
            existing |= set(first.parent.glob("*.txt")) - {first.with_name("classes.txt")}
    alone, kind = sorted(existing - {find_label_file(root, name) for name in names}), "files of labels without an image"
    total = f"{len(existing)} files"
    report(kind, alone, lambda path: f"{path}: there is no image of this name", total, is_error=False)
