"""What evaluators share: they collect detections, or take saved ones, and see both sides as arrays.

Letters: N images, M objects and R detections of all images, K classes. Boxes are COCO's here, (x, y, width, height) in
pixels of the image file, float64: converted back and forth, a box of 32 x 32 might turn from medium to small.
"""

import math
from typing import NamedTuple

import numpy as np
from torchvision.ops import box_convert

from detlite.errors import UserError


class Objects(NamedTuple):
    """The ground truth of a data set.

    Attributes:
        images: (M,) int64, the place of each object's image in the data set.
        labels: (M,) int64, 1 ... K.
        boxes: (M, 4) float64, (x, y, width, height).
        ignored: (M,) bool, COCO's crowd regions and VOC's difficult objects.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    ignored: np.ndarray


class Detections(NamedTuple):
    """Detections on a data set, in any order.

    Attributes:
        images: (R,) int64, the place of each detection's image in the data set.
        labels: (R,) int64, 1 ... K.
        boxes: (R, 4) float64, (x, y, width, height).
        scores: (R,) float64.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


class Evaluator:
    """Base of the evaluators: ``score()`` and ``summary()`` are for the class that extends it."""

    def __init__(self, dataset):
        """
        Args:
            dataset: what was detected on: its ``classes`` (names), ``category_ids`` (one a class) and ``coco()``.
        """
        self.dataset = dataset
        self.reset()

    def reset(self):
        """Forget everything processed so far."""
        self._detected = {}  # by image id, so that an image seen twice counts once
        self._results = None

    def process(self, targets, detections):
        """Take in one batch.

        Args:
            targets: one dict an image, with "image_id", an int of the data set.
            detections: one dict an image: "boxes" (R, 4) xyxy in pixels of the file, "scores" (R,), "labels" (R,) with
                1 ... K.

        Raises:
            UserError: a label is not in 1 ... K.
        """
        self._results = None
        num_classes = len(self.dataset.category_ids)
        for target, detected in zip(targets, detections, strict=True):
            image_id = int(target["image_id"])
            labels = detected["labels"].cpu().numpy()
            outside = labels[(labels < 1) | (labels > num_classes)]
            if len(outside):
                raise UserError(
                    f"image {image_id}: detected label {outside[0]}, but the data set has {num_classes} classes, "
                    f"labels 1 to {num_classes}"
                )
            boxes = box_convert(detected["boxes"].double(), "xyxy", "xywh").cpu().numpy()
            self._detected[image_id] = boxes, labels, detected["scores"].double().cpu().numpy()

    def load(self, predictions):
        """Take in saved predictions, in place of everything processed so far.

        Args:
            predictions: list of COCO results, see :meth:`predictions`.

        Raises:
            UserError: see :func:`check_predictions`.
        """
        self.reset()
        truth = self.dataset.coco()
        check_predictions(self.dataset, truth, predictions)
        found = _detections(self.dataset, truth, predictions)
        order = np.argsort(found.images, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(found.images[order])) + 1):
            for image in found.images[rows[:1]]:  # none without predictions
                self._detected[truth["images"][image]["id"]] = found.boxes[rows], found.labels[rows], found.scores[rows]

    def predictions(self):
        """What was taken in, as a list of COCO results, ready for JSON.

        Returns:
            list of {"image_id", "category_id", "bbox": [x1, y1, width, height], "score"}.
        """
        category_ids = [int(category_id) for category_id in self.dataset.category_ids]
        return [
            {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": box, "score": score}
            for image_id, detected in self._detected.items()
            for box, label, score in zip(*(value.tolist() for value in detected), strict=True)
        ]

    def evaluate(self):
        """Score what was taken in; images of the data set that never came count as images without detections.

        Returns:
            dict with a name for each group of numbers; fractions, None where undefined; ready for JSON.
        """
        if self._results is None:
            self._results = self.score()
        return self._results


def to_arrays(dataset, predictions):
    """Both sides of an evaluation as arrays.

    Args:
        dataset: see :class:`Evaluator`.
        predictions: list of COCO results.

    Returns:
        :class:`Objects`, :class:`Detections`.

    Raises:
        UserError: see :func:`check_predictions`.
    """
    truth = dataset.coco()
    check_predictions(dataset, truth, predictions)
    images, labels, boxes = _places(dataset, truth, truth["annotations"])
    ignored = np.array([bool(row.get("iscrowd", 0)) for row in truth["annotations"]], bool)
    return Objects(images, labels, boxes, ignored), _detections(dataset, truth, predictions)


def _detections(dataset, truth, predictions):
    scores = np.array([prediction["score"] for prediction in predictions], np.float64)
    return Detections(*_places(dataset, truth, predictions), scores)


def _places(dataset, truth, rows):
    """Image, label and box of each row of a COCO list."""
    place = {image["id"]: n for n, image in enumerate(truth["images"])}
    label = {category_id: k for k, category_id in enumerate(dataset.category_ids, start=1)}
    return (
        np.array([place[row["image_id"]] for row in rows], np.int64),
        np.array([label[row["category_id"]] for row in rows], np.int64),
        np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4),
    )


def check_predictions(dataset, truth, predictions):
    """Refuse what no data set could be scored with.

    Args:
        dataset: see :class:`Evaluator`.
        truth: its ``coco()``.
        predictions: list of COCO results.

    Raises:
        UserError: a prediction is incomplete, not finite, or of an image or category that the data set has not.
    """
    if not isinstance(predictions, list):
        raise UserError(f"predictions: expected a list of COCO results, got a {type(predictions).__name__}")
    for n, prediction in enumerate(predictions):
        try:
            numbers = [*prediction["bbox"], prediction["score"]]
            complete = len(numbers) == 5 and all(map(math.isfinite, numbers))
            complete = complete and {"image_id", "category_id"} <= set(prediction)
        except (KeyError, TypeError):
            complete = False
        if not complete:
            raise UserError(
                f"prediction {n}: expected image_id, category_id, bbox [x, y, width, height] and score, all numbers "
                f"finite, got {prediction}"
            )
    names = dict(zip(dataset.category_ids, dataset.classes, strict=True))
    used = {prediction["category_id"] for prediction in predictions}
    if used - set(names):
        known = ", ".join(f"{category_id} ({name})" for category_id, name in names.items())
        hint = ""
        if used <= set(range(len(names) + 1)):
            start = 0 if 0 in used else 1
            hint = f"; they look like the classes counted from {start}, which are not their ids"
        raise UserError(f"predictions have category_id {_some(used - set(names))}; the data set's are {known}{hint}")
    image_ids = {image["id"] for image in truth["images"]}
    unknown = {prediction["image_id"] for prediction in predictions} - image_ids
    if unknown:
        raise UserError(f"predictions have image_id {_some(unknown)}; the data set's are {_some(image_ids)}")


def _some(ids):
    """Ids as text, the first few of many."""
    ids = sorted(ids, key=lambda id_: (isinstance(id_, str), id_))
    return ", ".join(map(repr, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
