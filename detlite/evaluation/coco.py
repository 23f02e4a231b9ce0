"""COCO's mean average precision, by pycocotools (https://cocodataset.org/#detection-eval), without its traps.

Shape shorthand: K classes, T IoU thresholds. Boxes are COCO's, "bbox": [x1, y1, width, height] in pixels of the file.

pycocotools fails on an empty list of predictions, never matches an annotation whose id is 0, needs "area" and
"iscrowd", reads AP at 100 detections whether or not they were asked for, and scores unknown category ids 0 without a
word. So both sides are handed to it complete and renumbered, and its arrays are read here rather than by its
``summarize``. On anything that pycocotools can read, the numbers are its own to the last bit (but a perfect score is 1,
where pycocotools may round to 1 - 2 ** -52). faster-coco-eval matches and counts alike; it writes 1 for a precision of
1 / 1, where pycocotools writes 1 - 2 ** -52, so that an AP may differ by as much, and by no more.
"""

import contextlib
import importlib.util
import io
from typing import Literal

import numpy as np
from tabulate import tabulate

from detlite.errors import UserError
from detlite.evaluation.diagnosis import likely_cause
from detlite.evaluation.evaluator import Evaluator, check_predictions
from detlite.registry import EVALUATORS

LOW_AP = 0.01  # below this even a bad detector seldom is: something does not meet


@EVALUATORS.register()
class CocoEvaluator(Evaluator):
    """COCO's twelve numbers and the AP of every class; where nearly nothing is right, the likely cause.

    Args:
        max_detections: how many detections of an image and class count, best first: AR is given at each of these
            numbers, everything else at the largest.
        iou_thresholds: a detection is right if its IoU with an object is at least this; AP is the mean over all. null:
            COCO's 0.5, 0.55, ... 0.95.
        backend: what computes: pycocotools, the reference, or faster_coco_eval, which is several times faster and gives
            the same; auto takes the faster one where it is installed.
    """

    def __init__(
        self,
        dataset,
        *,
        max_detections: list[int] = (1, 10, 100),
        iou_thresholds: list[float] | None = None,
        backend: Literal["auto", "pycocotools", "faster_coco_eval"] = "auto",
    ):
        _check_settings(max_detections, iou_thresholds)
        _load_backend(backend)  # to miss it now rather than after the training
        super().__init__(dataset)
        self.max_detections = max_detections
        self.iou_thresholds = iou_thresholds
        self.backend = backend

    def score(self):
        """COCO's numbers.

        Returns:
            {"bbox": see :func:`score_predictions`}.
        """
        settings = self.max_detections, self.iou_thresholds, self.backend
        return {"bbox": score_predictions(self.dataset, self.predictions(), *settings)}

    def summary(self):
        """The results as text, and below them the likely cause of an AP under 0.01, if there is one to see."""
        scores = self.evaluate()["bbox"]
        text = summarize(scores)
        if scores["AP"] is None or scores["AP"] >= LOW_AP:
            return text
        cause = likely_cause(self.dataset, self.predictions())
        return f"{text}\n\nAP is under {LOW_AP:g}. Likely cause: {cause}" if cause else text


def score_predictions(dataset, predictions, max_detections=(1, 10, 100), iou_thresholds=None, backend="auto"):
    """COCO's numbers for a list of COCO results, such as a ``predictions.json`` holds.

    Args:
        dataset: ground truth: ``classes`` (names), ``category_ids`` (one a class) and ``coco()``.
        predictions: list of {"image_id", "category_id", "bbox": [x1, y1, width, height], "score"}; left as it is.
        max_detections: see :class:`CocoEvaluator`.
        iou_thresholds: see :class:`CocoEvaluator`.
        backend: see :class:`CocoEvaluator`.

    Returns:
        {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl", "per_class": {name:
        AP}}: fractions, None where undefined, because there is no object of that class or size, or that IoU is not
        among the thresholds. The names AR1, AR10, AR100 follow max_detections.

    Raises:
        UserError: a prediction is incomplete, not finite, or of an image or category that the data set has not.
    """
    _check_settings(max_detections, iou_thresholds)
    truth = dataset.coco()
    check_predictions(dataset, truth, predictions)
    limits = sorted(set(max_detections))
    evaluation = _run_backend(backend, truth, dataset.category_ids, predictions, limits, iou_thresholds)
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


def _load_backend(backend):
    """The classes COCO and COCOeval of a back end."""
    if backend == "auto":
        backend = "faster_coco_eval" if importlib.util.find_spec("faster_coco_eval") else "pycocotools"
    if backend == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        try:
            from faster_coco_eval import COCO
            from faster_coco_eval import COCOeval_faster as COCOeval
        except ImportError as error:
            raise UserError(
                f"CocoEvaluator: BACKEND faster_coco_eval cannot be imported ({error}); `pip install "
                "faster-coco-eval`, or leave BACKEND at pycocotools"
            ) from None
    return COCO, COCOeval


def _run_backend(backend, truth, category_ids, predictions, max_detections, iou_thresholds):
    """The accumulated COCOeval."""
    COCO, COCOeval = _load_backend(backend)

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
