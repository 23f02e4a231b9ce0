"""Scores and pictures of what a detector found."""

from detlite.drawing import draw_detections, save_picture
from detlite.evaluation.analysis import DetectionAnalysis
from detlite.evaluation.coco import CocoEvaluator, score_predictions, summarize
from detlite.evaluation.diagnosis import likely_cause
from detlite.evaluation.evaluator import Evaluator
from detlite.evaluation.pascal_voc import PascalVOCEvaluator
from detlite.parts import import_modules

__all__ = [
    "CocoEvaluator",
    "DetectionAnalysis",
    "Evaluator",
    "PascalVOCEvaluator",
    "draw_detections",
    "likely_cause",
    "save_picture",
    "score_predictions",
    "summarize",
]

import_modules(__name__)
