"""Data in YOLO's format: images, and beside or in a folder of their own a text file for each, an object a line.

Letters: B boxes of a whole data set, K classes.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np

from detlite.data.datasets.base import AnnotatedImages, good_boxes
from detlite.data.datasets.split import Split, of_source, of_split
from detlite.data.faults import ImageError, stop_at_fault
from detlite.data.image_files import IMAGE_SUFFIXES, read_header
from detlite.errors import UserError, nearest_path
from detlite.files import open_file
from detlite.registry import DATASETS

UNKNOWN_SIZE = (1000, 1000)  # of an image that cannot be read: reading it will tell


@DATASETS.register()
class YoloDataset(AnnotatedImages):
    """Images with a text file of labels each, as Darknet and Ultralytics have them.

    The labels of ``images/train/a.jpg`` are in ``labels/train/a.txt`` (the last folder called images becomes labels) or
    else beside the image; an image that has no such file has no objects. A line is a class, counted from 0, and four
    parts of the upright image's width or height: center x, center y, width, height. A line of a polygon (class, x, y,
    x, y, ...; three points or more) counts as the box around it. Anything else, such as a sixth number for a score, is
    a fault. Boxes that stick out are clipped to the image. Image ids are the positions in the data set, counted from 1.

    Args:
        report: what is done about faults, see :mod:`detlite.data.faults`.
        root: the folder that images are relative to; empty for the current one.
        images: folders, with all images in and below them, or text files with the path of an image a line.
        classes: the names; class number k of the files is the one after k others.
        split: all images; or, if they are not divided yet, train, four fifths drawn by their names, or test, the rest.
        keep_empty: whether images without objects stay in the data set.
        bad_boxes: what to do about boxes without area, outside their image or not finite: "error" stops and names
            them, "skip" leaves them out and logs how many.
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
        root = os.path.expanduser(root)
        names = find_images(root, images, report)
        names = of_split(names, names, split)
        paths = [os.path.join(root, name) for name in names]
        files = [find_label_file(root, name) for name in names]
        if not any(files):
            raise UserError(
                f"{paths[0]}: neither this nor any other of {len(names)} images has a file of labels; expected "
                + " or ".join(str(path) for path in label_files(root, names[0]))
            )
        sizes = [_size_of(path) for path in paths]
        texts, unreadable = zip(*map(_lines_of_labels, files), strict=True)
        unreadable = [message for message in unreadable if message]
        report("unreadable files of labels", unreadable, str, f"{len(files)} images")
        _report_labels_alone(root, images, names, files, report)
        objects, faults = [], {}  # (owner, line number, its text, class, box as parts of the image)
        for owner, file in enumerate(files):
            for number, text in enumerate(texts[owner], start=1):
                kind, found = parse_line(text, len(classes))
                if kind:
                    faults.setdefault(kind, []).append(f"{file}:{number}: {found}, got {text!r}")
                elif found:
                    objects.append((owner, number, text, *found))
        total = f"{len(objects) + sum(map(len, faults.values()))} lines"
        for kind, messages in faults.items():
            report(kind, messages, str, total)
        owners = np.array([row[0] for row in objects], np.int64)
        labels = np.array([row[3] + 1 for row in objects], np.int64)
        sizes = np.array(sizes, np.int64).reshape(-1, 2)
        with np.errstate(all="ignore"):  # boxes that are not finite are reported
            boxes = np.array([row[4] for row in objects], np.float64).reshape(-1, 4) * sizes[owners][:, [1, 0, 1, 0]]

        def describe(i):
            owner, number, text, *_ = objects[i]
            return f"{files[owner]}:{number}: has the box {text!r}"

        self._hold(
            of_source(f"{root or '.'}: {', '.join(images)}", split),
            root,
            image_ids=np.arange(1, len(names) + 1),
            file_names=names,
            sizes=sizes,
            owners=owners,
            boxes=boxes,
            labels=labels,
            crowd=np.zeros(len(labels), bool),
            crowd_name="crowd regions",
            good=good_boxes(boxes, labels, owners, sizes, describe, bad_boxes, report),
            keep_empty=keep_empty,
        )


def parse_line(text, num_classes):
    """What one line of labels says.

    Args:
        text: the line.
        num_classes: K.

    Returns:
        (None, (class 0 ... K - 1, (x, y, width, height))), all as parts of the image, x and y of the upper left corner;
        (None, None) for an empty line; (kind of fault, what was expected) for any other.

    >>> parse_line("1 0.5 0.25 0.5 0.125", 2), parse_line("0 0.5 0.25 1 0.25 0.75 0.75", 2)
    ((None, (1, (0.25, 0.1875, 0.5, 0.125))), (None, (0, (0.5, 0.25, 0.5, 0.5))))
    """
    words = text.split()
    if not words:
        return None, None
    try:
        number, *values = map(float, words)
    except ValueError:
        values = []
    is_polygon = len(values) >= 6 and len(values) % 2 == 0
    if len(values) != 4 and not is_polygon:
        return "lines that are no object", "expected class, center x, center y, width, height, or class and a polygon"
    if not (number.is_integer() and 0 <= number < num_classes):
        return "annotations of unknown categories", f"expected a class from 0 to {num_classes - 1} (see CLASSES)"
    if is_polygon:
        x, y = min(values[::2]), min(values[1::2])
        return None, (int(number), (x, y, max(values[::2]) - x, max(values[1::2]) - y))
    x, y, width, height = values
    return None, (int(number), (x - width / 2, y - height / 2, width, height))


def find_images(root, entries, report=stop_at_fault):
    """The images of folders and lists, as paths below root, in order.

    Args:
        root: a folder.
        entries: folders, or text files of paths, relative to the file or to root.
        report: is told of images that are missing or there twice.

    Raises:
        UserError: there is no such folder or file, or no image.
    """
    found, missing = [], []
    for entry in entries:
        path = Path(root, entry)
        if path.is_dir():
            below = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
            found += [os.path.normpath(os.path.join(entry, file.relative_to(path))) for file in below]
        elif path.is_file() and path.suffix == ".txt":
            for number, line in enumerate(_lines(path), start=1):
                image = line.strip()
                places = [os.path.normpath(os.path.join(base, image)) for base in (os.path.dirname(entry), "")]
                there = [place for place in places if Path(root, place).is_file()]
                if there:
                    found.append(there[0])
                elif image:
                    missing.append(f"{path}:{number}: {image}: no such image")
        else:
            what = "no such folder, nor a .txt file of images' paths (YoloDataset's IMAGES)"
            raise UserError(f"{path}: {what}{nearest_path(path)}")
    total = f"{len(found) + len(missing)} images"
    report("missing images", missing, str, total)
    own = Counter(found)
    again = [image for image, count in own.items() if count > 1]
    report("images listed twice", again, lambda image: f"{os.path.join(root, image)}: listed twice", total)
    if not own:
        raise UserError(f"{Path(root)}: {', '.join(entries)}: there is no image ({', '.join(IMAGE_SUFFIXES)})")
    return list(own)


def label_files(root, name):
    """Where the labels of an image may be, likelier first.

    >>> [str(path) for path in label_files("data", "images/train/images/a.jpg")]
    ['data/images/train/labels/a.txt', 'data/images/train/images/a.txt']
    """
    beside = Path(root, name).with_suffix(".txt")
    parts = list(Path(name).with_suffix(".txt").parts)
    if "images" not in parts[:-1]:
        return [beside]
    parts[len(parts) - 2 - parts[:-1][::-1].index("images")] = "labels"
    return [Path(root, *parts), beside]


def find_label_file(root, name):
    """The file that holds the labels of an image, readable or not; None if there is none, as it has no objects."""
    return next((path for path in label_files(root, name) if os.path.lexists(path)), None)


def _lines(path):
    with open_file(path) as file:
        return file.read().decode("utf-8-sig", "replace").splitlines()


def _lines_of_labels(path):
    """(lines, None), or (no lines, what is wrong with the file)."""
    try:
        return (_lines(path) if path else []), None
    except OSError as error:
        return [], f"{path}: {error.strerror}"


def _report_labels_alone(root, images, names, files, report):
    """Report files in folders of labels whose image is gone; lists of images may leave images out."""
    if all(Path(root, entry).is_dir() for entry in images):
        folders = {places[0].parent for name in names if len(places := label_files(root, name)) > 1}
        there = {path for folder in folders for path in folder.glob("*.txt")}
        alone = sorted(there - set(files) - {folder / "classes.txt" for folder in folders})
        kind = "files of labels without an image"
        report(
            kind, alone, lambda path: f"{path}: there is no image of this name", f"{len(there)} files", is_error=False
        )


def _size_of(path):
    try:
        return read_header(path)[0]
    except ImageError:
        return UNKNOWN_SIZE
