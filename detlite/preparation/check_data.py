"""Find the faults of a config's data sets, in one pass over their files.

Letters: B objects of a data set, K classes. Box sizes are (width, height), in pixels of the network's input.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from detlite.data import Faults, ImageError, build_dataset, build_test_transforms, build_transforms
from detlite.distributed import loader_workers
from detlite.errors import UserError
from detlite.evaluation.inference import to_original_size
from detlite.logs import progress
from detlite.preparation.survey import inspect_images
from detlite.registry import EVALUATORS

TEST = "DATASETS.TEST"
UPRIGHT = "they are turned upright when read; their boxes must be in pixels of the upright image"


@dataclass
class CheckedData:
    """A data set and the results of its check."""

    name: str  # its key in the config, such as DATASETS.TRAIN.0
    dataset: object = None  # without its faulty entries; None if it cannot be read at all
    faults: Faults = field(default_factory=Faults)
    counts: np.ndarray = None  # (K,) objects of each class
    box_sizes: np.ndarray = None  # (B, 2)
    files: dict = field(default_factory=dict)  # paths by digest of the file's bytes
    perfect: list = field(default_factory=list)  # inspected images of DATASETS.TEST, for score_ground_truth

    def objects_by_class(self):
        """Return {class name: number of objects}."""
        return dict(zip(self.dataset.classes, self.counts.tolist(), strict=True))


def check_datasets(cfg):
    """Check every image and annotation of DATASETS.TRAIN and DATASETS.TEST, after their transforms.

    Returns a list of :class:`CheckedData`, DATASETS.TEST last.
    """
    train_transforms = build_transforms(cfg.TRANSFORMS.TRAIN)
    test_transforms = build_test_transforms(cfg.TRANSFORMS.TEST)
    checked = []
    for index, node in enumerate(cfg.DATASETS.TRAIN):
        checked.append(_check_dataset(f"DATASETS.TRAIN.{index}", node, train_transforms, cfg.DATASETS))
    checked.append(_check_dataset(TEST, cfg.DATASETS.TEST, test_transforms, cfg.DATASETS))
    _compare(checked)
    return checked


def _check_dataset(name, node, transforms, settings):
    """Build a data set and inspect its images; ``settings`` is the node DATASETS."""
    data = CheckedData(name)
    try:
        data.dataset = build_dataset(node, data.faults)
    except UserError as error:
        data.faults("data sets that cannot be read", [error], str)
        return data

    # Labels and boxes of all images.
    labels, boxes = [], []
    images = inspect_images(data.dataset, transforms, loader_workers(settings.NUM_WORKERS))
    for image in progress(images, unit="image", desc=name):
        if image.error:
            _report_bad_image(data, image.error, settings.BAD_IMAGE)
            continue
        _report_suspect_image(data, image)
        labels += image.labels
        boxes += image.boxes
        if name == TEST:
            data.perfect.append(image)

    # Labels are 1 ... K. Drop the count of label 0, the background.
    data.counts = np.bincount(np.array(labels, np.int64), minlength=len(data.dataset.classes) + 1)[1:]
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    data.box_sizes = corners[:, 2:] - corners[:, :2]
    return data


def _report_bad_image(data, error, bad_image):
    """Report an image that cannot be used; ``bad_image`` is DATASETS.BAD_IMAGE."""
    kind, is_error = "images that the transforms refuse", True
    if isinstance(error, ImageError):  # the file is bad, which BAD_IMAGE may allow
        kind = error.kind
        is_error = bad_image == "error"
    data.faults(kind, [error], str, remedy="fix them, or set DATASETS.BAD_IMAGE to skip", is_error=is_error)


def _report_suspect_image(data, image):
    """Warn of rotation, duplicates and missing objects, which are often mistakes. Record the digest."""
    if image.orientation != 1:
        text = f"{image.where}: EXIF orientation {image.orientation}"
        data.faults("images with EXIF rotation", [text], str, remedy=UPRIGHT, is_error=False)
    if image.digest in data.files:
        text = f"{image.where}: same content as {data.files[image.digest]}"
        data.faults("duplicate images", [text], str, remedy="remove all but one of each", is_error=False)
    elif image.digest:
        data.files[image.digest] = image.where
    if not image.labels:
        remedy = "they are kept as background; set KEEP_EMPTY to false to skip them"
        data.faults("images without objects", [image.where], str, remedy=remedy, is_error=False)


def _compare(checked):
    """Report images that data sets share, in the later one, and classes that a data set lacks."""
    *trains, test = checked
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
    kind, remedy = "classes without an object in DATASETS.TRAIN", "the detector will not learn them"
    _report_classes(trains[-1], classes, trained == 0, kind, remedy)

    if test.dataset:
        _report_shared(test, trains, "images that are also in DATASETS.TRAIN", "test scores will be too high")
        if list(test.dataset.classes) == classes:
            untested = (trained > 0) & (test.counts == 0)
            kind, remedy = "classes of DATASETS.TRAIN without an object in DATASETS.TEST", "their AP is undefined"
            _report_classes(test, classes, untested, kind, remedy)


def _report_shared(data, others, kind, remedy):
    """Report files whose content is also in other data sets, under any name."""
    known = {}
    for other in others:
        known |= other.files
    shared = [f"{path}: same content as {known[digest]}" for digest, path in data.files.items() if digest in known]
    data.faults(kind, shared, str, remedy=remedy, is_error=False)


def _report_classes(data, classes, is_faulty, kind, remedy):
    """Report the classes that a (K,) bool array selects."""
    data.faults(kind, np.array(classes)[is_faulty].tolist(), str, remedy=remedy, is_error=False)


def score_ground_truth(cfg, data):
    """Score the ground truth as if a perfect detector had found it: AP must be 1.

    Returns (None, text): no result, and the AP of each evaluator. An AP below 1 or undefined raises a UserError.
    """
    # The boxes are in pixels of the network's input. Their conversion to the file's pixels is checked as well.
    scores = {}
    for node in cfg.EVALUATION.EVALUATORS:
        evaluator = EVALUATORS.build(node, data.dataset)
        evaluator.reset()
        for image in data.perfect:
            detection = {
                "boxes": torch.tensor(image.boxes).reshape(-1, 4),
                "labels": torch.tensor(image.labels, dtype=torch.int64),
                "scores": torch.ones(len(image.labels)),
            }
            target = {"image_id": image.image_id, "original_size": image.original_size}
            evaluator.process([target], [to_original_size(detection, image.size, image.original_size)])
        for group, values in evaluator.evaluate().items():
            if "AP" in values:
                scores[f"{group} AP"] = values["AP"]

    for name, score in scores.items():
        if score is None:
            raise UserError(f"{name} is undefined: DATASETS.TEST has no objects to find")
        if score < 1 - 1e-9:
            raise UserError(_explain_low_score(data, name, score))
    texts = [f"{name} {score:.3f}" for name, score in scores.items()]
    return None, ", ".join(texts) or "no evaluator has an AP"


def _explain_low_score(data, name, score):
    """Return the message for a perfect detector's AP below 1, with likely causes."""
    kinds = []
    for kind, fault in data.faults.items():
        if "boxes" in kind or "image" in kind:
            kinds.append(f"{fault.count} {kind}")
    causes = f"; likely causes: {', '.join(kinds)}" if kinds else ""
    most = max(len(image.labels) for image in data.perfect)
    return (
        f"on DATASETS.TEST, detections equal to the ground truth have {name} {score:.4f}, expected 1{causes}. "
        "TRANSFORMS.TEST must keep every object in the image, and evaluators count at most MAX_DETECTIONS detections "
        f"per image (here, an image has up to {most} objects)"
    )
