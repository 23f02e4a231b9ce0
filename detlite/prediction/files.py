"""Detections in image files, written as pictures, COCO's JSON and a table: what ``tools/predict.py`` does."""

import glob
import logging
import os
import time
from pathlib import Path

import numpy as np
import torch

from detlite.data import coco_ground_truth, read_image
from detlite.drawing import Panel, draw_on
from detlite.errors import UserError, nearest_path
from detlite.files import write_csv, write_json
from detlite.logs import progress
from detlite.prediction.detector import prepare_image

logger = logging.getLogger("detlite")

COLUMNS = ("file_name", "name", "score", "x1", "y1", "x2", "y2")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def find_images(names):
    """The image files that names stand for.

    Args:
        names: files, which are taken whatever they are called; folders, which stand for the images in them and below;
            and patterns such as ``photos/**/*.png``, which stand for the images among what they match.

    Returns:
        list of paths, each once; those of a folder or pattern are sorted.

    Raises:
        UserError: a name stands for nothing.
    """
    found = []
    for name in map(str, names):
        if os.path.isfile(name):
            found.append(name)
            continue
        pattern = os.path.join(glob.escape(name), "**", "*") if os.path.isdir(name) else os.path.expanduser(name)
        matches = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
        images = [path for path in matches if path.lower().endswith(SUFFIXES)]
        if not images:
            other = f"; of {len(matches)} files in it none is one of {', '.join(SUFFIXES)}" if matches else ""
            if os.path.isdir(name):
                raise UserError(f"{name}: no images in this folder{other}")
            raise UserError(f"{name}: no such file or folder, nor any image like it{other}{nearest_path(name)}")
        found += images
    return list(dict.fromkeys(found))


def predict(detector, paths, folder, *, pictures=True, num_workers=2):
    """Detect in image files, and write ``predictions.json``, ``predictions.csv`` and, in ``pictures``, the images with
    what was found in them.

    Args:
        detector: a :class:`~detlite.prediction.detector.Detector`.
        paths: list of image files.
        folder: where the results go.
        pictures: whether to draw.
        num_workers: processes that read images ahead.

    Returns:
        what is in the JSON file: a COCO dict, whose "annotations" have a "score", of the images that could be read; and
        a list of messages, one for each that could not.
    """
    folder = Path(folder)
    names = _picture_names(paths) if pictures else {}
    try:
        for place in {(folder / "pictures" / name).parent for name in names.values()} or {folder}:
            place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None
    found, failures = {}, []
    begin = time.perf_counter()
    with progress(total=len(paths), unit="image", desc="predict") as bar:
        for (place, image), detections in detector.detect(_read(detector, paths, num_workers, failures, bar)):
            found[place] = tuple(image.shape[-2:]), detections
            if pictures:
                panel = Panel(image)
                draw_on(panel, detections, detector.classes)
                panel.picture.save(folder / "pictures" / names[paths[place]], quality=90)
            bar.update()
    seconds = time.perf_counter() - begin
    result, rows = _results(paths, found, detector.classes)
    write_json(result, folder / "predictions.json")
    write_csv(rows, folder / "predictions.csv", COLUMNS)
    logger.info(
        "%d detections in %d images, %.1f s, %.1f images/s; see %s",
        len(rows),
        len(found),
        seconds,
        len(found) / seconds,
        folder,
    )
    return result, failures


def _read(detector, paths, num_workers, failures, bar):
    """Samples of the files that can be read, with (place, image) as key, read ahead; messages about the others."""
    files = _Files(paths, detector.transforms)
    loader = torch.utils.data.DataLoader(files, batch_size=None, num_workers=num_workers, generator=torch.Generator())
    for sample in loader:
        if isinstance(sample, UserError):
            failures.append(str(sample))
            logger.warning("skipped: %s", sample)
            bar.update()
        else:
            yield sample


class _Files(torch.utils.data.Dataset):
    """Image files as samples; in the place of one that cannot be read, the UserError.

    The processes that read receive a copy of this, so it must not hold the model.
    """

    def __init__(self, paths, transforms):
        self.paths = paths
        self.transforms = transforms

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, place):
        try:
            image = read_image(self.paths[place])
        except UserError as error:
            return error
        return prepare_image(image, self.transforms, key=(place, image))


def _picture_names(paths):
    """{path: its picture's name}, below the folder that all are in; JPEG files keep their names."""
    top = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    names = {path: os.path.relpath(os.path.abspath(path), top) for path in paths}
    return {path: name if name.lower().endswith((".jpg", ".jpeg")) else f"{name}.jpg" for path, name in names.items()}


def _results(paths, found, classes):
    """A COCO dict, and a row of a table for each detection."""
    places = sorted(found)
    sizes, detections = zip(*(found[place] for place in places), strict=True) if places else ((), ())
    counts = [len(detected["scores"]) for detected in detections]
    boxes, labels, scores = (
        torch.cat([detected[key] for detected in detections] or [torch.zeros(0, 4)]).numpy()
        for key in ("boxes", "labels", "scores")
    )
    owners = np.repeat(np.array(places, np.int64), counts)
    result = coco_ground_truth(
        classes,
        range(1, len(classes) + 1),
        [place + 1 for place in places],
        [paths[place] for place in places],
        np.array(sizes, np.int64).reshape(-1, 2),
        owners + 1,
        np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(float),
        labels.astype(np.int64),
    )
    for annotation, score in zip(result["annotations"], scores.tolist(), strict=False):
        annotation["score"] = score
    rows = [
        (paths[owner], classes[label - 1], round(score, 4), *(round(side, 2) for side in box))
        for owner, label, score, box in zip(
            owners.tolist(), labels.tolist(), scores.tolist(), boxes.tolist(), strict=False
        )
    ]
    return result, [dict(zip(COLUMNS, row, strict=True)) for row in rows]
