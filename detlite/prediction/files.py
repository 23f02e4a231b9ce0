"""Detect in image files, and write pictures, annotations and tables."""

import functools
import glob
import logging
import os
import time
from xml.sax.saxutils import escape

import torch
from torch.utils.data import DataLoader
from torchvision.ops import box_convert

from detlite import writing
from detlite.data import read_image
from detlite.distributed import loader_workers
from detlite.drawing import Panel, draw_on
from detlite.errors import UserError, nearest_path
from detlite.files import user_path
from detlite.logs import progress
from detlite.prediction.detector import prepare_image

logger = logging.getLogger("detlite")

COLUMNS = ("file_name", "name", "score", "x1", "y1", "x2", "y2")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = {"coco": (), "yolo": ("labels", ".txt"), "voc": ("Annotations", ".xml")}  # folder and suffix per image
VOC = """<annotation><filename>{}</filename><size><width>{}</width><height>{}</height><depth>3</depth></size>
{}</annotation>\n"""
VOC_BOX = "<bndbox><xmin>{:.2f}</xmin><ymin>{:.2f}</ymin><xmax>{:.2f}</xmax><ymax>{:.2f}</ymax></bndbox>"


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


def predict(detector, paths, folder, *, pictures=True, labels=True, format="coco", num_workers=2):
    """Detect in image files, and write ``predictions.json``, ``predictions.csv`` and the images in ``pictures``.

    Args:
        detector: a :class:`~detlite.prediction.detector.Detector`.
        paths, folder: list of image files, and the folder to write to.
        pictures: whether to write the images, with their detections drawn.
        labels: whether names and scores are written next to the boxes.
        format: yolo or voc also writes a file of annotations per image. predictions.json has COCO's.
        num_workers: processes that read images ahead.

    Returns:
        (content, failures): the content of ``predictions.json``, a COCO dict of the readable images with a "score" in
        each annotation; and a list with one message per unreadable file.
    """
    # Check all names before the detection, so that an error is reported early.
    folder = user_path(folder)
    tables = [folder / "predictions.json", folder / "predictions.csv"]
    drawn = output_files(paths, folder / "pictures") if pictures else {}
    files = output_files(paths, folder / FORMATS[format][0], FORMATS[format][1]) if FORMATS[format] else {}
    writing.claim(*tables, *drawn.values(), *files.values(), inputs=paths)
    if format == "yolo":
        writing.write_text("".join(f"{name}\n" for name in detector.classes), folder / "classes.txt")

    # The detector groups images into batches, which changes their order. So results are stored by index of the path.
    found, failures = {}, []
    begin = time.perf_counter()
    with progress(total=len(paths), unit="image", desc="predict") as bar:
        prepared = _read(detector, paths, num_workers, failures, bar)
        for (index, image), detections in detector.detect(prepared):
            found[index] = tuple(image.shape[-2:]), detections
            path = paths[index]
            if path in files:
                _write_annotations(files[path], path, *found[index])
            if path in drawn:
                panel = Panel(image)
                draw_on(panel, detections, detector.classes, with_names=labels)
                writing.write_picture(panel.picture, drawn[path])
            bar.update()
    seconds = time.perf_counter() - begin
    result, rows = collect(paths, found, detector.classes)
    writing.write_json(result, tables[0])
    writing.write_csv(rows, tables[1], COLUMNS)
    text = "%d detections in %d images, %.1f s, %.1f images/s; see %s"
    logger.info(text, len(rows), len(found), seconds, len(found) / seconds, folder)
    return result, failures


def _read(detector, paths, num_workers, failures, bar):
    """Yield one PreparedImage per readable file, with the key (index, image); add a message to failures for others."""
    # The generator keeps the global random state unchanged.
    options = {"num_workers": loader_workers(num_workers), "generator": torch.Generator()}
    prepare = functools.partial(_read_one, detector.transforms)  # copied to each worker, therefore without the model
    for prepared in DataLoader(list(enumerate(paths)), batch_size=None, collate_fn=prepare, **options):
        if isinstance(prepared, UserError):
            failures.append(str(prepared))
            logger.warning("skipped: %s", prepared)
            bar.update()
        else:
            yield prepared


def _read_one(transforms, item):
    """Return the PreparedImage of an (index, path), or the UserError of an unreadable file."""
    try:
        image = read_image(item[1])
    except UserError as error:
        return error
    return prepare_image(image, transforms, key=(item[0], image))


def output_files(paths, folder, suffix=""):
    """Return {path: its file in the folder}, named by the path below the common folder.

    The suffix replaces the path's; without one, names of no JPEG get ".jpg" added. A shared file is a UserError.
    """
    try:
        top = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    except ValueError:
        raise UserError("the files are on several drives; detect in those of one drive at a time") from None
    files, owners = {}, {}
    for path in paths:
        name = os.path.relpath(path, top)
        if suffix:
            name = os.path.splitext(name)[0] + suffix
        elif not name.lower().endswith((".jpg", ".jpeg")):
            name += ".jpg"
        files[path] = folder / name
        owner = owners.setdefault(name.lower(), path)  # some file systems ignore case
        if owner != path:
            raise UserError(f"{owner} and {path} would share {files[path]}; rename one of them")
    return files


def _write_annotations(file, path, size, detections):
    """Write an image's detections in YOLO's format, or as Pascal VOC's XML. The caller has claimed the file."""
    boxes, text = detections["boxes"], ""
    if file.suffix == ".txt":
        fractions = box_convert(boxes, "xyxy", "cxcywh") / torch.tensor([*size[::-1], *size[::-1]])
        for label, box in zip(detections["labels"].tolist(), fractions.tolist(), strict=True):
            text += "{} {:.6f} {:.6f} {:.6f} {:.6f}\n".format(label - 1, *box)
    else:  # VOC's first pixel is 1, and the last one is inside
        for name, (x1, y1, x2, y2) in zip(detections["names"], boxes.tolist(), strict=True):
            text += f"<object><name>{escape(name)}</name>{VOC_BOX.format(x1 + 1, y1 + 1, x2, y2)}</object>\n"
        text = VOC.format(escape(os.path.basename(path)), size[1], size[0], text)
    with writing.explain_write_errors(file), writing.open_atomically(file, durable=False) as opened:
        opened.write(text.encode("utf-8", "backslashreplace"))


def collect(paths, found, classes):
    """Return a COCO dict, and the table with one row per detection. Both are in the order of the paths."""
    images, annotations, rows = [], [], []
    for index in sorted(found):
        (height, width), detections = found[index]
        path, image_id = paths[index], index + 1
        images.append({"id": image_id, "file_name": path, "height": height, "width": width})
        boxes, labels, scores = detections["boxes"], detections["labels"].tolist(), detections["scores"].tolist()
        all_xywh = box_convert(boxes, "xyxy", "xywh").tolist()
        for xyxy, xywh, label, score in zip(boxes.tolist(), all_xywh, labels, scores, strict=True):
            annotation = {"image_id": image_id, "category_id": label, "bbox": xywh, "area": xywh[2] * xywh[3]}
            annotations.append({**annotation, "iscrowd": 0, "id": len(annotations) + 1, "score": score})
            row = [path, classes[label - 1], round(score, 4), *(round(value, 2) for value in xyxy)]
            rows.append(dict(zip(COLUMNS, row, strict=True)))
    categories = [{"id": label, "name": name} for label, name in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}, rows
