"""Collect detections, and turn both sides of an evaluation into arrays.

Letters: M objects and R detections of all images, K classes. Boxes are COCO's, (x, y, width, height) in pixels of the
image file, float64. Objects' boxes are never converted to corners and back: a medium box of 32 x 32 could become small.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate
from torchvision.ops import box_convert

from detlite.console import one_line
from detlite.errors import UserError, shortened


class Objects(NamedTuple):
    """The ground truth of a data set."""

    images: np.ndarray  # (M,) int64, index of each object's image in the data set
    labels: np.ndarray  # (M,) int64, 1 ... K
    boxes: np.ndarray  # (M, 4) float64, (x, y, width, height)
    ignored: np.ndarray  # (M,) bool, COCO's crowd regions and VOC's difficult objects


class Detections(NamedTuple):
    """Detections on a data set, in any order."""

    images: np.ndarray  # (R,) int64, index of each detection's image in the data set
    labels: np.ndarray  # (R,) int64, 1 ... K
    boxes: np.ndarray  # (R, 4) float64, (x, y, width, height)
    scores: np.ndarray  # (R,) float64


def select(arrays, rows):
    """Return rows, given as indices or a mask, of :class:`Objects`, :class:`Detections` or another tuple of arrays."""
    return type(arrays)(*(values[rows] for values in arrays))


class Evaluator:
    """Base of the evaluators: a subclass defines ``score()`` and ``summary()``.

    The data set has ``classes`` (names), ``category_ids`` (one per class) and ``coco()``, its ground truth.
    """

    def __init__(self, dataset: Any):
        self.dataset = dataset
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._detected = {}  # by image id, so that an image processed twice counts once
        self._results = None

    def process(self, targets: list[dict], detections: list[dict]) -> None:
        """Add the detections of one batch. A label that is not in 1 ... K is a UserError.

        Args:
            targets: one dict per image, with "image_id", an int of the data set.
            detections: one dict per image: "boxes" (R, 4) xyxy in pixels of the file, "scores" (R,), "labels" (R,).
        """
        self._results = None
        num_classes = len(self.dataset.category_ids)
        for target, detected in zip(targets, detections, strict=True):
            image_id = int(target["image_id"])
            # A label outside the classes would count for another class, or for none.
            labels = detected["labels"].cpu().numpy()
            outside = labels[(labels < 1) | (labels > num_classes)]
            if len(outside):
                classes = f"{num_classes} classes, labels 1 to {num_classes}"
                raise UserError(f"image {image_id}: detected label {outside[0]}, but the data set has {classes}")
            boxes = box_convert(detected["boxes"].double(), "xyxy", "xywh").cpu().numpy()
            self._detected[image_id] = boxes, labels, detected["scores"].double().cpu().numpy()

    def load(self, predictions: list[dict]) -> None:
        """Replace all detections by saved predictions, after :func:`check_predictions`."""
        self.reset()
        truth = self.dataset.coco()
        _, detections = to_arrays(self.dataset, predictions)

        # Sort by image, and cut where a new image begins; without predictions, np.split returns one empty part.
        order = np.argsort(detections.images, kind="stable")
        images, starts = np.unique(detections.images[order], return_index=True)
        for image, rows in zip(images, np.split(order, starts[1:]), strict=False):
            _, labels, boxes, scores = select(detections, rows)
            self._detected[truth["images"][image]["id"]] = boxes, labels, scores

    def predictions(self) -> list[dict]:
        """Return all detections as COCO results, ready for JSON.

        A result is {"image_id", "category_id", "bbox": [x1, y1, width, height], "score"}.
        """
        category_ids = self.dataset.category_ids
        results = []
        for image_id, (boxes, labels, scores) in self._detected.items():
            for box, label, score in zip(boxes.tolist(), labels.tolist(), scores.tolist(), strict=True):
                category_id = int(category_ids[label - 1])
                results.append({"image_id": image_id, "category_id": category_id, "bbox": box, "score": score})
        return results

    def evaluate(self) -> dict:
        """Score all detections. An image that was not processed has none.

        The result has a name per group of numbers: fractions, None where undefined, ready for JSON.
        """
        if self._results is None:
            self._results = self.score()
        return self._results


def to_arrays(dataset, predictions):
    """Convert the ground truth and COCO results to Objects and Detections.

    The data set is described in :class:`Evaluator`; :func:`check_predictions` is called for the results.
    """
    truth = dataset.coco()
    check_predictions(dataset, truth, predictions)
    ignored = np.array([bool(row.get("iscrowd", 0)) for row in truth["annotations"]], bool)
    scores = np.array([row["score"] for row in predictions], np.float64)
    objects = Objects(*_columns(dataset, truth, truth["annotations"]), ignored)
    return objects, Detections(*_columns(dataset, truth, predictions), scores)


def _columns(dataset, truth, rows):
    """Return images (R,), labels (R,) and boxes (R, 4) of the R rows of a COCO list."""
    image_indices = index_images(truth)
    label_of = {category_id: label for label, category_id in enumerate(dataset.category_ids, start=1)}
    images = np.array([image_indices[row["image_id"]] for row in rows], np.int64)
    labels = np.array([label_of[row["category_id"]] for row in rows], np.int64)
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    return images, labels, boxes


def index_images(truth):
    """Return {image id: its index in the data set} of a COCO dict."""
    return {image["id"]: index for index, image in enumerate(truth["images"])}


def check_predictions(dataset, truth, predictions):
    """Refuse predictions that cannot be scored on a data set and its ``coco()``.

    A UserError is raised if one is incomplete, not finite, or of an image or category that the data set does not have.
    """
    if not isinstance(predictions, list):
        raise UserError(f"predictions: expected a list of COCO results, got a {type(predictions).__name__}")

    # Each prediction must be complete before its ids are used.
    category_ids, image_ids = set(), set()
    for index, prediction in enumerate(predictions):
        if not _is_complete(prediction):
            expected = "image_id, category_id, bbox [x, y, width, height] and score, all numbers finite"
            raise UserError(f"prediction {index}: expected {expected}, got {shortened(prediction)}")
        category_ids.add(prediction["category_id"])
        image_ids.add(prediction["image_id"])

    # Ids of the data set. A common mistake is to write class numbers in place of category ids.
    names = dict(zip(dataset.category_ids, dataset.classes, strict=True))
    unknown = category_ids - names.keys()
    if unknown:
        known = ", ".join(f"{category_id} ({name})" for category_id, name in names.items())
        hint = ""
        if category_ids <= set(range(len(names) + 1)):
            start = int(0 not in category_ids)
            hint = f"; they seem to count the classes from {start}, but category ids are expected"
        raise UserError(f"predictions have category_id {_first_few(unknown)}; the data set's are {known}{hint}")
    known = index_images(truth).keys()
    unknown = image_ids - known
    if unknown:
        raise UserError(f"predictions have image_id {_first_few(unknown)}; the data set's are {_first_few(known)}")


def _is_complete(prediction):
    try:
        numbers = [*prediction["bbox"], prediction["score"]]
        ids = prediction["image_id"], prediction["category_id"]
        are_ids = all(isinstance(id_, (int, float, str)) for id_ in ids)
        return are_ids and len(numbers) == 5 and all(map(math.isfinite, numbers))
    except (KeyError, OverflowError, TypeError):
        return False


def _first_few(ids):
    """Format up to five ids, and the number of others."""
    ids = sorted(ids, key=lambda id_: (isinstance(id_, str), id_))
    text = ", ".join(map(repr, ids[:5]))
    return text if len(ids) <= 5 else f"{text} and {len(ids) - 5} more"


def mean_of_defined(values):
    """Return the mean of the values that are not None, or None if there are none."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def format_table(headings, rows, first_column="left"):
    """Format rows of a name and numbers as a table."""
    cells = [list(map(format_cell, row)) for row in rows]
    alignment = [first_column] + ["right"] * (len(headings) - 1)
    return tabulate(cells, headings, disable_numparse=True, colalign=alignment)


def format_cell(value):
    """Format a name, a count, a fraction or None."""
    if value is None:
        return "n/a"
    return f"{value:.3f}" if isinstance(value, float) else one_line(str(value))
