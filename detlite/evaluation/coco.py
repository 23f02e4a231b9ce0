"""COCO's mean average precision, by pycocotools (https://cocodataset.org/#detection-eval), without its traps.

Shape shorthand: M objects, R detections, K classes; T IoU thresholds. Boxes are (x1, y1, x2, y2) in pixels of the image
file, except in COCO's own dicts, where "bbox" is [x1, y1, width, height].

pycocotools fails on an empty list of predictions, never matches an annotation whose id is 0, needs "area" and
"iscrowd", reads AP at 100 detections whether or not they were asked for, and scores unknown category ids 0 without a
word. So both sides are handed to it complete and renumbered, and its arrays are read here rather than by its
``summarize``. On anything that pycocotools can read, the numbers are its own to the last bit (but a perfect score is 1,
where pycocotools may round to 1 - 2 ** -52).
"""

import contextlib
import io
import math

import numpy as np
from tabulate import tabulate
from torchvision.ops import box_convert

from detlite.errors import UserError
from detlite.registry import EVALUATORS


@EVALUATORS.register()
class CocoEvaluator:
    """COCO's twelve numbers and the AP of every class.

    Args:
        max_detections: how many detections of an image and class count, best first: AR is given at each of these
            numbers, everything else at the largest.
        iou_thresholds: a detection is right if its IoU with an object is at least this; AP is the mean over all. null:
            COCO's 0.5, 0.55, ... 0.95.
    """

    def __init__(self, dataset, *, max_detections: list[int] = (1, 10, 100), iou_thresholds: list[float] | None = None):
        """
        Args:
            dataset: what was detected on: its ``classes`` (names), ``category_ids`` (one a class) and ``coco()``.
        """
        _check_settings(max_detections, iou_thresholds)
        self.dataset = dataset
        self.max_detections = max_detections
        self.iou_thresholds = iou_thresholds
        self.reset()

    def reset(self):
        """Forget everything processed so far."""
        self._predictions = {}  # by image id, so that an image seen twice counts once
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
        category_ids = [int(category_id) for category_id in self.dataset.category_ids]
        for target, detected in zip(targets, detections, strict=True):
            image_id = int(target["image_id"])
            boxes = box_convert(detected["boxes"].double(), "xyxy", "xywh")
            labels = detected["labels"].tolist()
            for label in labels:
                if not 1 <= label <= len(category_ids):
                    raise UserError(
                        f"image {image_id}: detected label {label}, but the data set has {len(category_ids)} classes, "
                        f"labels 1 to {len(category_ids)}"
                    )
            self._predictions[image_id] = [
                {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": box, "score": score}
                for label, box, score in zip(labels, boxes.tolist(), detected["scores"].tolist(), strict=True)
            ]

    def predictions(self):
        """What was processed, as a list of COCO results, ready for JSON.

        Returns:
            list of {"image_id", "category_id", "bbox": [x1, y1, width, height], "score"}.
        """
        return [prediction for image in self._predictions.values() for prediction in image]

    def evaluate(self):
        """Score what was processed; images of the data set that never came count as images without detections.

        Returns:
            {"bbox": see :func:`score_predictions`}.
        """
        if self._results is None:
            scores = score_predictions(self.dataset, self.predictions(), self.max_detections, self.iou_thresholds)
            self._results = {"bbox": scores}
        return self._results

    def summary(self):
        """The results as text."""
        return summarize(self.evaluate()["bbox"])


def score_predictions(dataset, predictions, max_detections=(1, 10, 100), iou_thresholds=None):
    """COCO's numbers for a list of COCO results, such as a ``predictions.json`` holds.

    Args:
        dataset: ground truth: ``classes`` (names), ``category_ids`` (one a class) and ``coco()``.
        predictions: list of {"image_id", "category_id", "bbox": [x1, y1, width, height], "score"}; left as it is.
        max_detections: see :class:`CocoEvaluator`.
        iou_thresholds: see :class:`CocoEvaluator`.

    Returns:
        {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl", "per_class": {name:
        AP}}: fractions, None where undefined, because there is no object of that class or size, or that IoU is not
        among the thresholds. The names AR1, AR10, AR100 follow max_detections.

    Raises:
        UserError: a prediction is incomplete, not finite, or of an image or category that the data set has not.
    """
    _check_settings(max_detections, iou_thresholds)
    truth = dataset.coco()
    _check_predictions(dataset, truth, predictions)
    evaluation = _run_backend(truth, dataset.category_ids, predictions, sorted(set(max_detections)), iou_thresholds)
    thresholds = np.asarray(evaluation.params.iouThrs)
    precision = evaluation.eval["precision"][..., -1]  # [T, 101 recalls, K, 4 areas], at the most detections
    recall = evaluation.eval["recall"]  # [T, K, 4 areas, max_detections]

    scores = {"AP": _mean(precision[:, :, :, 0])}
    for name, threshold in (("AP50", 0.5), ("AP75", 0.75)):
        scores[name] = _mean(precision[np.isclose(thresholds, threshold)][:, :, :, 0])
    for area, name in enumerate(("APs", "APm", "APl"), 1):
        scores[name] = _mean(precision[:, :, :, area])
    for m, limit in enumerate(evaluation.params.maxDets):
        scores[f"AR{limit}"] = _mean(recall[:, :, 0, m])
    for area, name in enumerate(("ARs", "ARm", "ARl"), 1):
        scores[name] = _mean(recall[:, :, area, -1])
    column = {category_id: k for k, category_id in enumerate(evaluation.params.catIds)}
    scores["per_class"] = {
        name: _mean(precision[:, :, column[category_id], 0])
        for name, category_id in zip(dataset.classes, dataset.category_ids, strict=True)
    }
    return scores


def summarize(scores):
    """The numbers of :func:`score_predictions` as text: one row for all classes, then a row a class.

    >>> print(summarize({"AP": 0.5, "APs": None, "per_class": {"cat": 1.0, "dog": 0.0}}))
       AP    APs
    -----  -----
    0.500    n/a
    <BLANKLINE>
    class       AP
    -------  -----
    cat      1.000
    dog      0.000
    """

    def cell(score):
        return "n/a" if score is None else f"{score:.3f}"

    overall = {name: cell(score) for name, score in scores.items() if name != "per_class"}
    classes = [(name, cell(score)) for name, score in scores["per_class"].items()]
    return "\n\n".join(
        (
            tabulate([overall.values()], list(overall), disable_numparse=True, colalign=["right"] * len(overall)),
            tabulate(classes, ["class", "AP"], disable_numparse=True, colalign=["left", "right"]),
        )
    )


def _run_backend(truth, category_ids, predictions, max_detections, iou_thresholds):
    """The accumulated COCOeval; the one place where the back end is chosen."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def index(annotations):
        coco = COCO()
        coco.dataset = {
            "images": truth["images"],
            "categories": truth["categories"],
            "annotations": [
                {"iscrowd": 0, "area": annotation["bbox"][2] * annotation["bbox"][3], **annotation, "id": n}
                for n, annotation in enumerate(annotations, 1)  # an id of 0 would be read as "not matched"
            ],
        }
        coco.createIndex()
        return coco

    keys = ("image_id", "category_id", "bbox", "score")  # a file may have more, such as an area of its own
    predictions = [{key: prediction[key] for key in keys} for prediction in predictions]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(index(truth["annotations"]), index(predictions), "bbox")
        evaluation.params.catIds = sorted(category_ids)
        evaluation.params.maxDets = max_detections
        if iou_thresholds is not None:
            evaluation.params.iouThrs = np.array(sorted(set(iou_thresholds)))
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _mean(values):
    """The mean of those that are defined: pycocotools writes -1 for the others."""
    values = values[values > -1]
    if not values.size:
        return None
    mean = float(values.mean())
    return mean if mean < 1 - 1e-12 else 1.0  # pycocotools gives a perfect class with a single object 1 - 2 ** -52


def _check_settings(max_detections, iou_thresholds):
    if not max_detections or min(max_detections) < 1:
        raise ValueError(f"max_detections: expected numbers from 1 on, at least one, got {list(max_detections)}")
    if iou_thresholds is not None and not (iou_thresholds and all(0 < iou <= 1 for iou in iou_thresholds)):
        raise ValueError(f"iou_thresholds: expected numbers above 0 and up to 1, or null, got {list(iou_thresholds)}")


def _check_predictions(dataset, truth, predictions):
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
    unknown = {prediction["category_id"] for prediction in predictions} - set(names)
    if unknown:
        known = ", ".join(f"{category_id} ({name})" for category_id, name in names.items())
        raise UserError(f"predictions have category_id {_some(unknown)}; the data set's are {known}")
    image_ids = {image["id"] for image in truth["images"]}
    unknown = {prediction["image_id"] for prediction in predictions} - image_ids
    if unknown:
        raise UserError(f"predictions have image_id {_some(unknown)}; the data set's are {_some(image_ids)}")


def _some(ids):
    """Ids as text, the first few of many."""
    ids = sorted(ids, key=lambda id_: (isinstance(id_, str), id_))
    return ", ".join(map(repr, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
