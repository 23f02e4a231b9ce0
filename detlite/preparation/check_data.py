"""Find the faults of a config's data sets, in one pass over their files.

Letters: M objects of an image, K classes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from detlite.agreement import list_test_sets
from detlite.data import Faults, ImageError, build_dataset, build_test_transforms, build_transforms
from detlite.data.image_files import read_header
from detlite.data.records import Records
from detlite.distributed import loader_workers
from detlite.errors import UserError
from detlite.guard import checking_parts
from detlite.logs import progress
from detlite.registry import EVALUATORS

UPRIGHT = "they are turned upright when read; their boxes must be in pixels of the upright image"


class Inspection(NamedTuple):
    """The facts about one image. After an error, only ``where`` and ``error`` are set."""

    where: str  # the image's file, with the number of its tile, or "image number N" if the data set has no files
    error: UserError | None = None
    orientation: int = 1  # EXIF's number; 1 is upright
    digest: bytes = b""  # hash of the file's bytes
    labels: Sequence = ()  # M ints, 1 ... K


class Inspector:
    """A data set of the :class:`Inspection` of each image or tile, read with the code that reads it for training."""

    def __init__(self, dataset, transforms):
        self.dataset = dataset
        self.records = Records(dataset, transforms, seed=0, bad_image="error", replace=False)

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        path = self.dataset.image_file(index) if hasattr(self.dataset, "image_file") else ""
        where = path or f"image number {index + 1}"
        # Of the tiles of an image, only the first reports on its file.
        if path and hasattr(self.dataset, "dataset"):
            where += f", tile number {index + 1}"
            if index and self.dataset.image_file(index - 1) == path:
                path = ""
        record = self.records[0, index]  # epoch 0
        if isinstance(record, UserError):
            return Inspection(where, record)
        orientation, digest = 1, b""
        if path:
            _, orientation = read_header(path)
            digest = hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()

        # Plain numbers travel faster from a worker process than tensors.
        (_, target), _ = record
        return Inspection(where, None, orientation, digest, target["labels"].tolist())


@dataclass
class CheckedData:
    """A data set and the results of its check."""

    name: str  # its key in the config, such as DATASETS.TRAIN.0
    dataset: object = None  # without its faulty entries; None if it cannot be read at all
    faults: Faults = field(default_factory=Faults)
    counts: np.ndarray = None  # (K,) objects of each class
    files: dict = field(default_factory=dict)  # paths by digest of the file's bytes

    def warn(self, kind, examples, remedy):
        """Add a warning about each of the examples, which are texts."""
        self.faults(kind, examples, str, remedy=remedy, is_error=False)

    def objects_by_class(self):
        """Return {class name: number of objects}."""
        return dict(zip(self.dataset.classes, self.counts.tolist(), strict=True))


def check_datasets(cfg):
    """Check every image and annotation of DATASETS.TRAIN and DATASETS.TEST, after their transforms.

    Returns two lists of :class:`CheckedData`, for training and for test.
    """
    train_transforms = build_transforms(cfg.TRANSFORMS.TRAIN)
    test_transforms = build_test_transforms(cfg.TRANSFORMS.TEST)
    trains = [_check_dataset(node, train_transforms, cfg.DATASETS) for node in cfg.DATASETS.TRAIN]
    tests = [_check_dataset(test_set.node, test_transforms, cfg.DATASETS) for test_set in list_test_sets(cfg)]
    _compare(trains, tests)
    return trains, tests


def _check_dataset(node, transforms, settings):
    """Build a data set and inspect its images; ``settings`` is the node DATASETS."""
    data = CheckedData(node.path)
    try:
        data.dataset = build_dataset(node, data.faults)
    except UserError as error:
        data.faults("data sets that cannot be read", [error], str)
        return data

    # The loader's generator leaves torch's global one unchanged.
    labels = []
    options = {"num_workers": loader_workers(settings.NUM_WORKERS), "generator": torch.Generator()}
    images = DataLoader(Inspector(data.dataset, transforms), batch_size=None, **options)
    for image in progress(images, unit="image", desc=data.name):
        if image.error:
            # BAD_IMAGE may allow bad files, but no transform that fails.
            kind, options = "images that the transforms refuse", {}
            if isinstance(image.error, ImageError):
                kind, remedy = image.error.kind, "fix them, or set DATASETS.BAD_IMAGE to skip"
                options = {"remedy": remedy, "is_error": settings.BAD_IMAGE == "error"}
            data.faults(kind, [image.error], str, **options)
            continue
        _report_suspect_image(data, image)
        labels += image.labels

    # Labels are 1 ... K. Drop the count of label 0, the background.
    data.counts = np.bincount(np.array(labels, np.int64), minlength=len(data.dataset.classes) + 1)[1:]
    return data


def _report_suspect_image(data, image):
    """Warn of rotation, duplicates and missing objects, which are often mistakes. Record the digest."""
    if image.orientation != 1:
        data.warn("images with EXIF rotation", [f"{image.where}: EXIF orientation {image.orientation}"], UPRIGHT)
    if image.digest in data.files:
        text = f"{image.where}: same content as {data.files[image.digest]}"
        data.warn("duplicate images", [text], "remove all but one of each")
    elif image.digest:
        data.files[image.digest] = image.where
    if not image.labels:
        remedy = "they are kept as background; set KEEP_EMPTY to false to skip them"
        data.warn("images without objects", [image.where], remedy)


def _compare(trains, tests):
    """Report images that data sets share, in the later one, and classes that a data set lacks."""
    trains = [data for data in trains if data.dataset]
    for index, data in enumerate(trains):
        _report_shared(data, trains[:index], "images that are also in an earlier data set", "they count twice")
    if not trains:
        return

    # Add the counts of data sets with the same classes. Different classes are an error that check.py reports.
    classes = list(trains[0].dataset.classes)
    trained = np.zeros(len(classes), np.int64)
    for data in trains:
        if list(data.dataset.classes) == classes:
            trained += data.counts
    names = np.array(classes)
    never = names[trained == 0].tolist()
    trains[-1].warn("classes without an object in DATASETS.TRAIN", never, "the detector will not learn them")

    for test in [data for data in tests if data.dataset]:
        _report_shared(test, trains, "images that are also in DATASETS.TRAIN", "test scores will be too high")
        if list(test.dataset.classes) == classes:
            untested = names[(trained > 0) & (test.counts == 0)].tolist()
            kind = f"classes of DATASETS.TRAIN without an object in {test.name}"
            test.warn(kind, untested, "their AP is undefined")


def _report_shared(data, others, kind, remedy):
    """Report files whose content is also in other data sets, under any name."""
    known = {}
    for other in others:
        known |= other.files
    shared = [f"{path}: same content as {known[digest]}" for digest, path in data.files.items() if digest in known]
    data.warn(kind, shared, remedy)


def score_ground_truth(cfg, data):
    """Score the ground truth of :class:`CheckedData` as if a perfect detector had found it: AP must be 1.

    Returns (None, text): no result, and the AP of each evaluator. An AP below 1 or undefined raises a UserError.
    """
    with checking_parts():
        truth = data.dataset.coco()
    objects = [row for row in truth["annotations"] if not row.get("iscrowd")]

    # A detector's boxes end at the image's border, wherever the object's box ends.
    size_of = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    perfect = []
    for row in objects:
        (x, y, w, h), (width, height) = row["bbox"], size_of[row["image_id"]]
        left, top = max(x, 0), max(y, 0)
        box = [left, top, min(x + w, width) - left, min(y + h, height) - top]
        perfect.append({"image_id": row["image_id"], "category_id": row["category_id"], "bbox": box, "score": 1.0})
    scores = {}
    for node in cfg.EVALUATION.EVALUATORS:
        evaluator = EVALUATORS.build(node, data.dataset)
        if hasattr(evaluator, "load"):  # a custom evaluator may lack it
            evaluator.load(perfect)
            with checking_parts():
                results = evaluator.evaluate()
            for group, values in results.items():
                if "AP" in values:
                    scores[f"{group} AP"] = values["AP"]

    for name, score in scores.items():
        if score is None:
            raise UserError(f"{name} is undefined: {data.name} has no objects to find")
        if score < 1 - 1e-9:
            causes = "objects annotated twice, boxes that stick out, or more objects than MAX_DETECTIONS"
            problem = f"detections equal to the ground truth have {name} {score:.4f}, expected 1"
            raise UserError(f"{problem}; likely causes: {causes}")
    texts = [f"{name} {score:.3f}" for name, score in scores.items()]
    return None, ", ".join(texts) or "no evaluator has an AP"
