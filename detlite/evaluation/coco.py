"""Compute COCO's mean average precision by pycocotools.

pycocotools (https://cocodataset.org/#detection-eval) fails on an empty list of predictions, never matches an annotation
whose id is 0, needs "area" and "iscrowd", reads AP at 100 detections even if other numbers are set, and scores unknown
category ids as 0 without a message. Therefore both sides are completed and renumbered here, and results are read from
pycocotools' arrays. On input that pycocotools can read, the numbers are pycocotools' to the last bit, with one
exception: a perfect score is 1, where pycocotools may round to 1 - 2 ** -52. faster-coco-eval gives the same numbers,
but writes 1 for a precision of 1 / 1, so that an AP may differ by 2 ** -52, and not by more.
"""

import contextlib
import importlib.util
import io
from typing import Any, Literal

import numpy as np

from detlite.console import one_line
from detlite.errors import UserError, require
from detlite.evaluation.diagnosis import likely_cause
from detlite.evaluation.evaluator import Evaluator, check_predictions, format_table
from detlite.registry import EVALUATORS

LOW_AP = 0.01  # even a bad detector seldom scores less, unless boxes, labels or weights are wrong
COCO_AREAS = (("s", 0, 32), ("m", 32, 96), ("l", 96, 1e5))  # small, medium and large


@EVALUATORS.register()
class CocoEvaluator(Evaluator):
    """COCO's twelve numbers and the AP of every class.

    The summary of an AP under 0.01 also names the likely cause, if one is recognized.

    Args:
        max_detections: numbers of detections per image and class that count, best first; AR is given at each of these
            numbers, everything else at the largest.
        iou_thresholds: minimum IoUs of a correct detection; AP is the mean over all of them. null: COCO's 0.5, 0.55,
            ... 0.95.
        area_ranges: sizes with a separate AP and AR, a list of [name, from, to]. A size is the square root of an area
            in pixels, and [m, 32, 96] is reported as APm and ARm.
        backend: package that computes: pycocotools, the reference, or faster_coco_eval, which is several times faster
            and gives the same numbers; auto uses faster_coco_eval if it is installed.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        max_detections: list[int] = (1, 10, 100),
        iou_thresholds: list[float] | None = None,
        area_ranges: list[list[str | float]] = COCO_AREAS,
        backend: Literal["auto", "pycocotools", "faster_coco_eval"] = "auto",
    ):
        if not max_detections or min(max_detections) < 1:
            raise ValueError(f"max_detections: expected one or more numbers, at least 1, got {list(max_detections)}")
        if iou_thresholds is not None and not (iou_thresholds and all(0 < iou <= 1 for iou in iou_thresholds)):
            raise ValueError(f"iou_thresholds: expected null or numbers in (0, 1], got {list(iou_thresholds)}")
        for entry in area_ranges:
            # A name of letters cannot be confused with AP50 or AR100.
            name, *sides = entry or [""]
            fits = str(name).isalpha() and len(sides) == 2 and str not in map(type, sides)
            if not fits or not 0 <= sides[0] < sides[1]:
                raise ValueError(f"area_ranges: expected [name in letters, from, to], got {list(entry)}")
        names = [entry[0] for entry in area_ranges]
        require(len(set(names)) == len(names), "area_ranges: expected different names", ", ".join(names))
        _load_backend(backend)  # if it is missing, fail now and not after the training
        super().__init__(dataset)
        self.max_detections = max_detections
        self.iou_thresholds = iou_thresholds
        self.area_ranges = area_ranges
        self.backend = backend

    def score(self) -> dict:
        """Compute COCO's numbers.

        Returns:
            {"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
            "per_class": {name: AP}}}: fractions; None if no object has this class or size, or if this IoU is not among
            the thresholds. The names AR1, AR10, AR100 follow max_detections, and APs to APl, ARs to ARl area_ranges.
        """
        evaluation = self._run_backend()
        precision = evaluation.eval["precision"][..., -1]  # [IoUs, 101 recalls, classes, areas], at most detections
        recall = evaluation.eval["recall"]  # [IoUs, classes, areas, max_detections]

        # Names in COCO's order. Area 0 is all sizes, the others are AREA_RANGES.
        scores = {"AP": _mean(precision[:, :, :, 0])}
        for name, threshold in (("AP50", 0.5), ("AP75", 0.75)):
            scores[name] = _mean(precision[np.isclose(evaluation.params.iouThrs, threshold)][:, :, :, 0])
        for area, (name, _, _) in enumerate(self.area_ranges, 1):
            scores[f"AP{name}"] = _mean(precision[:, :, :, area])
        for index, limit in enumerate(evaluation.params.maxDets):
            scores[f"AR{limit}"] = _mean(recall[:, :, 0, index])
        for area, (name, _, _) in enumerate(self.area_ranges, 1):
            scores[f"AR{name}"] = _mean(recall[:, :, area, -1])

        # pycocotools sorts the classes by their ids.
        columns = {category_id: column for column, category_id in enumerate(evaluation.params.catIds)}
        scores["per_class"] = {}
        for name, category_id in zip(self.dataset.classes, self.dataset.category_ids, strict=True):
            scores["per_class"][name] = _mean(precision[:, :, columns[category_id], 0])
        return {"bbox": scores}

    def _run_backend(self):
        """Return the accumulated COCOeval."""
        truth, predictions = self.dataset.coco(), self.predictions()
        check_predictions(self.dataset, truth, predictions)
        COCO, COCOeval = _load_backend(self.backend)

        def index(rows):
            annotations = []
            for number, row in enumerate(rows, 1):
                area = row["bbox"][2] * row["bbox"][3]
                # Ids start from 1, because pycocotools reads 0 as "not matched".
                annotations.append({"iscrowd": 0, "area": area, **row, "id": number})
            coco = COCO()
            coco.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": annotations}
            coco.createIndex()
            return coco

        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(index(truth["annotations"]), index(predictions), "bbox")
            evaluation.params.catIds = sorted(self.dataset.category_ids)
            evaluation.params.maxDets = sorted(set(self.max_detections))
            if self.iou_thresholds is not None:
                evaluation.params.iouThrs = np.array(sorted(set(self.iou_thresholds)))
            evaluation.params.areaRng = [[0, 1e10], *([low**2, high**2] for _, low, high in self.area_ranges)]
            evaluation.params.areaRngLbl = ["all", *(name for name, _, _ in self.area_ranges)]
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation

    def summary(self) -> str:
        """Format the results as text, with the likely cause of an AP under 0.01."""
        scores = self.evaluate()["bbox"]
        text = summarize(scores)
        most = max((len(scores) for _, _, scores in self._detected.values()), default=0)
        limit = max(self.max_detections)
        if 0 < most < limit:
            text += f"\n\nat most {most} detections per image, so AR{limit} counts no more than these"
        if scores["AP"] is None or scores["AP"] >= LOW_AP:
            return text
        cause = likely_cause(self.dataset, self.predictions())
        return f"{text}\n\nAP is under {LOW_AP:g}. Likely cause: {one_line(cause)}" if cause else text


def summarize(scores):
    """Format the numbers of :meth:`CocoEvaluator.score` as two tables."""
    overall = dict(scores)
    per_class = overall.pop("per_class")
    table = format_table(list(overall), [overall.values()], first_column="right")
    return f"{table}\n\n{format_table(['class', 'AP'], per_class.items())}"


def _load_backend(backend):
    """Return the classes COCO and COCOeval of a backend."""
    if backend == "auto":
        backend = "faster_coco_eval" if importlib.util.find_spec("faster_coco_eval") else "pycocotools"
    if backend == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        advice = "`pip install faster-coco-eval`, or set BACKEND to pycocotools"
        raise UserError(f"CocoEvaluator: BACKEND faster_coco_eval cannot be imported ({error}); {advice}") from None
    return COCO, COCOeval_faster


def _mean(values):
    """Average the values that are not -1, which pycocotools writes for undefined."""
    values = values[values > -1]
    if not values.size:
        return None
    mean = float(values.mean())
    return mean if mean < 1 - 1e-12 else 1.0  # pycocotools gives a perfect class with a single object 1 - 2 ** -52
