"""Data in YOLO's format: one text file per image, one object per line, next to the images or in ``labels/``.

Letters: K classes.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from detlite.data.datasets.base import AnnotatedImages, Annotations
from detlite.data.datasets.split import Split, describe_source, select_split
from detlite.data.faults import ImageError, stop_at_fault
from detlite.data.image_files import IMAGE_SUFFIXES, read_header
from detlite.errors import UserError, nearest_path
from detlite.files import open_file
from detlite.registry import DATASETS

UNKNOWN_SIZE = (1000, 1000)  # of a damaged image, which fails when it is read


@DATASETS.register()
class YoloDataset(AnnotatedImages):
    """Images with one text file of labels each, as Darknet and Ultralytics write them.

    The labels of ``images/train/a.jpg`` are in ``labels/train/a.txt`` (the last folder called images becomes labels) or
    next to the image. An image without such a file has no objects. A line is a class, counted from 0, and four
    fractions of the upright image's width or height: center x, center y, width, height. A line with a polygon (class,
    x, y, x, y, ...; three points or more) counts as the box around it. Any other line, such as one with a score as
    sixth number, is a fault. Boxes that stick out are clipped to the image. Image ids are the positions in the data
    set, counted from 1.

    Args:
        report: function that receives faults, see :mod:`detlite.data.faults`.
        root: the folder that images are relative to; empty for the current one.
        images: folders, with all images in and below them, or text files with the path of one image per line.
        classes: class names; the files' class k is ``classes[k]``, from 0.
        split: "all" images; or, if they are not divided yet, "train" (four fifths, drawn by their names) or "test"
            (the rest).
        keep_empty: whether images without objects stay in the data set.
        bad_boxes: "error" stops at a box without area, outside its image or not finite; "skip" leaves such boxes out
            and logs their number.
    """

    def __init__(
        self,
        report=stop_at_fault,
        *,
        root: str = "",
        images: list[str] = (),
        classes: list[str] = (),
        split: Split = "all",
        keep_empty: bool = True,
        bad_boxes: Literal["error", "skip"] = "error",
    ):
        if not images or not classes:
            raise UserError("YoloDataset needs IMAGES, folders such as [images/train], and CLASSES, their names")
        if len(set(classes)) < len(classes):
            raise ValueError(f"classes: expected different names, got {list(classes)}")
        self.classes = list(classes)
        self.category_ids = list(range(1, len(classes) + 1))

        # The images of the split, and their files of labels; None if an image has none.
        root = os.path.expanduser(root)
        names = find_images(root, images, report)
        names = select_split(names, names, split)
        files = [find_label_file(root, name) for name in names]
        if not any(files):
            expected = " or ".join(map(str, label_files(root, names[0])))
            first = os.path.join(root, names[0])
            raise UserError(
                f"{first}: neither this nor any other of {len(names)} images has a file of labels; expected {expected}"
            )
        lines = _read_label_files(files, report)
        if all(Path(root, entry).is_dir() for entry in images):  # a list of images may leave some out
            _report_labels_alone(root, names, files, report)
        objects = _parse_files(files, lines, len(classes), report)

        # From fractions to pixels, in flat arrays.
        sizes = np.array([_read_size(os.path.join(root, name)) for name in names], np.int64).reshape(-1, 2)
        owners = np.array([found.owner for found in objects], np.int64)
        boxes = np.array([found.box for found in objects], np.float64).reshape(-1, 4)
        with np.errstate(all="ignore"):  # boxes that are not finite are reported
            boxes *= sizes[owners][:, [1, 0, 1, 0]]

        def describe(index):
            found = objects[index]
            return f"{files[found.owner]}:{found.number}: has the box {found.text!r}"

        annotations = Annotations(
            source=describe_source(f"{root or '.'}: {', '.join(images)}", split),
            folder=root,
            image_ids=np.arange(1, len(names) + 1),
            file_names=names,
            sizes=sizes,
            owners=owners,
            boxes=boxes,
            labels=np.array([found.class_index + 1 for found in objects], np.int64),
            crowd=np.zeros(len(objects), bool),
            describe=describe,
        )
        super().__init__(annotations, report, bad_boxes=bad_boxes, keep_empty=keep_empty)


class _Object(NamedTuple):
    """One object.

    Attributes:
        owner: index of its image.
        number: number of its line, from 1.
        text: the line.
        class_index: 0 ... K - 1.
        box: (x, y, width, height) as fractions of the image.
    """

    owner: int
    number: int
    text: str
    class_index: int
    box: tuple


class LineError(ValueError):
    """A line of labels that is no object.

    Args:
        kind: kind of the fault, as a plural.
        expected: the valid lines in words.
    """

    def __init__(self, kind, expected):
        super().__init__(expected)
        self.kind = kind


def _parse_files(files, lines, num_classes, report):
    """Return the objects of all files, a list of :class:`_Object`, and report the lines that are none.

    Args:
        files: the path of each image's file, or None.
        lines: the lines of each file.
        num_classes: K.
        report: see :mod:`detlite.data.faults`.
    """
    objects, faults, count = [], {}, 0
    for owner, file in enumerate(files):
        for number, text in enumerate(lines[owner], start=1):
            if not text or text.isspace():
                continue
            count += 1
            try:
                objects.append(_Object(owner, number, text, *parse_line(text, num_classes)))
            except LineError as error:
                faults.setdefault(error.kind, []).append(f"{file}:{number}: {error}, got {text!r}")
    for kind, messages in faults.items():
        report(kind, messages, str, f"{count} lines")
    return objects


def parse_line(text, num_classes):
    """Parse one line of labels.

    Args:
        text: the line, not blank.
        num_classes: K.

    Returns:
        class 0 ... K - 1, and the box (x, y, width, height) as fractions of the image; x, y is its upper left corner.

    Raises:
        LineError: the line is no object.

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
    if is_polygon:
        x, y = min(values[::2]), min(values[1::2])
        return int(number), (x, y, max(values[::2]) - x, max(values[1::2]) - y)
    x, y, width, height = values
    return int(number), (x - width / 2, y - height / 2, width, height)


def find_images(root, entries, report=stop_at_fault):
    """Return the images of folders and lists, as paths below root, in order.

    Args:
        root: a folder.
        entries: folders, or text files of paths, relative to the file or to root.
        report: receives images that are missing or listed twice.

    Raises:
        UserError: a folder or file is missing, or there is no image.
    """
    found, missing = [], []
    for entry in entries:
        path = Path(root, entry)
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.suffix.lower() in IMAGE_SUFFIXES:
                    found.append(os.path.normpath(os.path.join(entry, file.relative_to(path))))
        elif path.is_file() and path.suffix == ".txt":
            listed, gone = _find_listed_images(root, entry)
            found += listed
            missing += gone
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


def _find_listed_images(root, entry):
    """Return the images of a list, as paths below root, and messages about missing ones."""
    found, missing = [], []
    path = Path(root, entry)
    for number, line in enumerate(_read_lines(path), start=1):
        image = line.strip()
        candidates = [os.path.normpath(os.path.join(os.path.dirname(entry), image)), os.path.normpath(image)]
        existing = [name for name in candidates if Path(root, name).is_file()]
        if existing:
            found.append(existing[0])
        elif image:
            missing.append(f"{path}:{number}: {image}: no such image")
    return found, missing


def label_files(root, name):
    """Return the possible files of an image's labels, likelier first.

    >>> [str(path) for path in label_files("data", "images/train/images/a.jpg")]
    ['data/images/train/labels/a.txt', 'data/images/train/images/a.txt']
    """
    next_to_image = Path(root, name).with_suffix(".txt")
    parts = list(Path(name).with_suffix(".txt").parts)
    if "images" not in parts[:-1]:
        return [next_to_image]
    parts[len(parts) - 2 - parts[:-1][::-1].index("images")] = "labels"  # the last folder of this name
    return [Path(root, *parts), next_to_image]


def find_label_file(root, name):
    """Return the file of an image's labels, readable or not; None if there is none, as the image has no objects."""
    for path in label_files(root, name):
        if os.path.lexists(path):
            return path
    return None


def _read_lines(path):
    with open_file(path) as file:
        return file.read().decode("utf-8-sig", "replace").splitlines()


def _read_label_files(files, report):
    """Return the lines of each file, and report files that cannot be read; None and such a file have no lines."""
    lines, unreadable = [], []
    for path in files:
        try:
            lines.append(_read_lines(path) if path else [])
        except OSError as error:
            lines.append([])
            unreadable.append(f"{path}: {error.strerror}")
    report("unreadable files of labels", unreadable, str, f"{len(files)} images")
    return lines


def _report_labels_alone(root, names, files, report):
    """Report files in folders of labels whose image is gone."""
    folders = {label_files(root, name)[0].parent for name in names if "images" in Path(name).parts[:-1]}
    existing = set()
    for folder in folders:
        existing |= set(folder.glob("*.txt")) - {folder / "classes.txt"}
    alone = sorted(existing - set(files))
    report(
        "files of labels without an image",
        alone,
        lambda path: f"{path}: there is no image of this name",
        f"{len(existing)} files",
        is_error=False,
    )


def _read_size(path):
    """Read the (height, width) of an image."""
    try:
        return read_header(path)[0]
    except ImageError:
        return UNKNOWN_SIZE
