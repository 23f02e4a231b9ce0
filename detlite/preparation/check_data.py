"""What is wrong in the data sets of a config, found in one pass over their files.

Letters: B objects of a data set, K classes. Box sizes are (width, height), in pixels of the network's input.
"""

import logging
from dataclasses import dataclass, field

import numpy as np
import torch

from detlite.data import Faults, ImageError, build_dataset, build_transforms
from detlite.errors import UserError
from detlite.evaluation.inference import to_original_size
from detlite.logs import progress
from detlite.preparation.survey import inspect_images
from detlite.registry import EVALUATORS

logger = logging.getLogger("detlite")

UPRIGHT = "they are turned upright when read; their boxes must be in the upright image's pixels"


@dataclass
class CheckedData:
    """A data set that was looked at.

    Args:
        name: its place in the config, such as DATASETS.TRAIN.0.
        dataset: the data set, without what is wrong in it; None if it cannot be read at all.
        faults: what is wrong.
        counts: (K,) objects of each class.
        box_sizes: (B, 2).
        files: by digest of a file's bytes, its path.
        perfect: what a perfect detector finds in the network's input: lists of targets and detections.
    """

    name: str
    dataset: object = None
    faults: Faults = field(default_factory=Faults)
    counts: np.ndarray = None
    box_sizes: np.ndarray = None
    files: dict = field(default_factory=dict)
    perfect: list = field(default_factory=list)

    @property
    def is_test(self):
        """Whether it is the one to test on."""
        return self.name == "DATASETS.TEST"


def check_datasets(cfg):
    """Look at every image and annotation of DATASETS.TRAIN and DATASETS.TEST, each read as training and test read it.

    Args:
        cfg: what :func:`detlite.config.load_config` returned.

    Returns:
        list of :class:`CheckedData`, that of DATASETS.TEST last.
    """
    nodes = {f"DATASETS.TRAIN.{number}": node for number, node in enumerate(cfg.DATASETS.TRAIN)}
    nodes["DATASETS.TEST"] = cfg.DATASETS.TEST
    transforms = {split: build_transforms(cfg.TRANSFORMS[split]) for split in ("TRAIN", "TEST")}
    found = []
    for name, node in nodes.items():
        data = CheckedData(name)
        found.append(data)
        try:
            data.dataset = build_dataset(node, data.faults)
        except UserError as error:
            data.faults("data sets that cannot be read", [error], str)
            continue
        _look_at_images(data, transforms[name.split(".")[1]], cfg.DATASETS)
    _compare(found)
    return found


def _look_at_images(data, transforms, settings):
    """Fill in what the images, and their targets in the network's input, tell."""
    labels, boxes = [], []
    images = inspect_images(data.dataset, transforms, settings.NUM_WORKERS)
    for image in progress(images, unit="image", desc=data.name):
        if image.error:
            is_bad_image = isinstance(image.error, ImageError)
            kind = image.error.kind if is_bad_image else "images that the transforms refuse"
            stops = settings.BAD_IMAGE == "error" or not is_bad_image
            data.faults(kind, [image.error], str, remedy="mend them, or set DATASETS.BAD_IMAGE to skip", is_error=stops)
            continue
        if image.orientation != 1:
            text = f"{image.where}: EXIF orientation {image.orientation}"
            data.faults("images with EXIF rotation", [text], str, remedy=UPRIGHT, is_error=False)
        if image.digest in data.files:
            text = f"{image.where}: its content is that of {data.files[image.digest]}"
            data.faults("duplicate images", [text], str, remedy="leave out all but one of each", is_error=False)
        elif image.digest:
            data.files[image.digest] = image.where
        if not image.labels:
            remedy = "they are kept as background, or left out with KEEP_EMPTY false"
            data.faults("images without objects", [image.where], str, remedy=remedy, is_error=False)
        labels += image.labels
        boxes += image.boxes
        if data.is_test:
            data.perfect.append((image.image_id, image.boxes, image.labels, image.size, image.original_size))
    data.counts = np.bincount(np.array(labels, np.int64), minlength=len(data.dataset.classes) + 1)[1:]
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    data.box_sizes = corners[:, 2:] - corners[:, :2]


def _compare(found):
    """Faults that show only where data sets are laid side by side; they are put down to the later one."""
    *trains, test = found
    trains = [data for data in trains if data.dataset]
    for number, data in enumerate(trains):
        _report_shared(data, trains[:number], "images that an earlier data set has, too", "they count twice")
    if not trains:
        return
    classes = list(trains[0].dataset.classes)
    trained = sum(data.counts for data in trains if list(data.dataset.classes) == classes)
    never = [name for name, count in zip(classes, trained, strict=True) if not count]
    kind, remedy = "classes without an object in DATASETS.TRAIN", "the detector will not learn them"
    trains[-1].faults(kind, never, str, remedy=remedy, is_error=False)
    if not test.dataset:
        return
    _report_shared(test, trains, "images that are in DATASETS.TRAIN, too", "test scores will say too much")
    if list(test.dataset.classes) == classes:
        untested = [name for name, a, b in zip(classes, trained, test.counts, strict=True) if a and not b]
        kind, remedy = "classes of DATASETS.TRAIN without an object in DATASETS.TEST", "their AP is undefined"
        test.faults(kind, untested, str, remedy=remedy, is_error=False)


def _report_shared(data, others, kind, remedy):
    """Report files that other data sets have, too, under whatever name."""
    known = {digest: path for other in others for digest, path in other.files.items()}
    again = [
        f"{path}: its content is that of {known[digest]}" for digest, path in data.files.items() if digest in known
    ]
    data.faults(kind, again, str, remedy=remedy, is_error=False)


def score_ground_truth(cfg, data):
    """Score what a perfect detector finds, through the test transforms and back: AP must be 1.

    Args:
        cfg: the config.
        data: :class:`CheckedData` of DATASETS.TEST.

    Returns:
        the AP of each evaluator that gives one, as text.

    Raises:
        UserError: an AP is not 1 or undefined.
    """
    scores = {}
    for node in cfg.EVALUATION.EVALUATORS:
        evaluator = EVALUATORS.build(node, data.dataset)
        evaluator.reset()
        for image_id, boxes, labels, size, original_size in data.perfect:
            detection = {
                "boxes": torch.tensor(boxes).reshape(-1, 4),
                "labels": torch.tensor(labels, dtype=torch.int64),
                "scores": torch.ones(len(labels)),
            }
            target = {"image_id": image_id, "original_size": original_size}
            evaluator.process([target], [to_original_size(detection, size, original_size)])
        results = evaluator.evaluate().items()
        scores |= {f"{group} AP": values["AP"] for group, values in results if "AP" in values}
    for name, score in scores.items():
        if score is None:
            raise UserError(f"{name} is undefined: DATASETS.TEST has no objects to find")
        if score < 1 - 1e-9:
            kinds = [
                f"{fault.count} {kind}" for kind, fault in data.faults.items() if "boxes" in kind or "image" in kind
            ]
            most = max(len(labels) for _, _, labels, _, _ in data.perfect)
            why = f"; likely for its {', '.join(kinds)}" if kinds else ""
            raise UserError(
                f"a detector that finds exactly the ground truth has {name} {score:.4f} on DATASETS.TEST, not 1{why}; "
                f"an image has up to {most} objects, and evaluators count so many detections as their MAX_DETECTIONS "
                "says; TRANSFORMS.TEST must leave every object in the image"
            )
    return ", ".join(f"{name} {score:.3f}" for name, score in scores.items()) or "no evaluator gives an AP"
