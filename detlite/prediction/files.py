"""Detect in image files and write pictures, COCO's JSON and a table: what ``tools/predict.py`` does."""

import glob
import logging
import os
import time

import torch
from torch.utils.data import DataLoader
from torchvision.ops import box_convert

from detlite.data import read_image
from detlite.distributed import loader_workers
from detlite.drawing import Panel, draw_on
from detlite.errors import UserError, nearest_path
from detlite.files import user_path
from detlite.logs import progress
from detlite.prediction.detector import prepare_image
from detlite.writing import claim, write_csv, write_json, write_picture

logger = logging.getLogger("detlite")

COLUMNS = ("file_name", "name", "score", "x1", "y1", "x2", "y2")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def find_images(names):
    """Return the paths of image files by name, folder or pattern, without duplicates.

    ``names`` are files with any suffix; folders, which are searched with their subfolders; and patterns such as
    ``photos/**/*.png``. In folders and patterns, only files with one of SUFFIXES are found, in sorted order. A name
    without any image is a UserError.
    """
    found = []
    for name in map(os.path.expanduser, map(str, names)):
        if os.path.isfile(name):
            found.append(name)
            continue

        # In a folder or pattern, take only the files with an image suffix.
        pattern = os.path.join(glob.escape(name), "**", "*") if os.path.isdir(name) else name
        files = sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
        images = [path for path in files if path.lower().endswith(SUFFIXES)]
        found += images
        if not images:
            suffixes = f" (none of {len(files)} files ends in {', '.join(SUFFIXES)})" if files else ""
            raise UserError(f"{name}: no images found{suffixes}{nearest_path(name)}")
    return list(dict.fromkeys(found))


def predict(detector, paths, folder, *, pictures=True, labels=True, num_workers=2):
    """Detect in image files, and write ``predictions.json``, ``predictions.csv`` and the images in ``pictures``.

    Args:
        detector: a :class:`~detlite.prediction.detector.Detector`.
        paths, folder: list of image files, and the folder to write to.
        pictures: whether to write the images, with their detections drawn.
        labels: whether names and scores are written next to the boxes.
        num_workers: processes that read images ahead.

    Returns:
        (content, failures): the content of ``predictions.json``, a COCO dict of the readable images with a "score" in
        each annotation; and a list with one message per unreadable file.
    """
    # Check all names before the detection, so that an error is reported early.
    folder = user_path(folder)
    tables = [folder / "predictions.json", folder / "predictions.csv"]
    names = _picture_names(paths) if pictures else {}
    claim(*tables, *(folder / "pictures" / name for name in names.values()), inputs=paths)

    # The detector groups images into batches, which changes their order. So results are stored by index of the path.
    found, failures = {}, []
    begin = time.perf_counter()
    with progress(total=len(paths), unit="image", desc="predict") as bar:
        prepared = _read(detector, paths, num_workers, failures, bar)
        for (index, image), detections in detector.detect(prepared):
            found[index] = tuple(image.shape[-2:]), detections
            if pictures:
                panel = Panel(image)
                draw_on(panel, detections, detector.classes, with_names=labels)
                write_picture(panel.picture, folder / "pictures" / names[paths[index]])
            bar.update()
    seconds = time.perf_counter() - begin
    result, rows = _collect(paths, found, detector.classes)
    write_json(result, tables[0])
    write_csv(rows, tables[1], COLUMNS)
    counts = f"{len(rows)} detections in {len(found)} images"
    logger.info("%s, %.1f s, %.1f images/s; see %s", counts, seconds, len(found) / seconds, folder)
    return result, failures


def _read(detector, paths, num_workers, failures, bar):
    """Yield one PreparedImage per readable file, with the key (index, image); add a message to failures for others."""
    # The generator keeps the global random state unchanged.
    options = {"num_workers": loader_workers(num_workers), "generator": torch.Generator()}
    for prepared in DataLoader(_Files(paths, detector.transforms), batch_size=None, **options):
        if isinstance(prepared, UserError):
            failures.append(str(prepared))
            logger.warning("skipped: %s", prepared)
            bar.update()
        else:
            yield prepared


class _Files:
    """Data set of prepared images, or UserErrors. It is copied to each worker, so it does not hold the model."""

    def __init__(self, paths, transforms):
        self.paths = paths
        self.transforms = transforms

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        try:
            image = read_image(self.paths[index])
        except UserError as error:
            return error
        return prepare_image(image, self.transforms, key=(index, image))


def _picture_names(paths):
    """Return {path: picture name}, relative to the common folder; names without a JPEG suffix get ".jpg" added.

    A name that is taken gets an underscore: ``x.png.jpg`` next to ``x.png`` becomes ``x.png_.jpg``.
    """
    absolute = [os.path.abspath(path) for path in paths]
    top = os.path.commonpath(map(os.path.dirname, absolute))
    names, taken = {}, set()
    for path, full_path in zip(paths, absolute, strict=True):
        name = os.path.relpath(full_path, top)
        if not name.lower().endswith((".jpg", ".jpeg")):
            name += ".jpg"
        while name.lower() in taken:  # some file systems ignore case
            name = f"{os.path.splitext(name)[0]}_.jpg"
        taken.add(name.lower())
        names[path] = name
    return names


def _collect(paths, found, classes):
    """Return a COCO dict, and the table with one row per detection. Both are in the order of the paths."""
    images, annotations, rows = [], [], []
    for index in sorted(found):
        (height, width), detections = found[index]
        path, image_id = paths[index], index + 1
        images.append({"id": image_id, "file_name": path, "height": height, "width": width})
        all_xyxy = detections["boxes"].tolist()
        all_xywh = box_convert(detections["boxes"], "xyxy", "xywh").tolist()
        labels, scores = detections["labels"].tolist(), detections["scores"].tolist()
        for xyxy, xywh, label, score in zip(all_xyxy, all_xywh, labels, scores, strict=True):
            annotation = {"image_id": image_id, "category_id": label, "bbox": xywh, "area": xywh[2] * xywh[3]}
            annotations.append({**annotation, "iscrowd": 0, "id": len(annotations) + 1, "score": score})
            row = [path, classes[label - 1], round(score, 4), *(round(value, 2) for value in xyxy)]
            rows.append(dict(zip(COLUMNS, row, strict=True)))
    categories = [{"id": label, "name": name} for label, name in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}, rows
