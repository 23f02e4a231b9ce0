"""Turn detections into numbers."""

from detlite.evaluation.analysis import DetectionAnalysis, choose_thresholds
from detlite.evaluation.coco import CocoEvaluator
from detlite.evaluation.evaluator import Evaluator
from detlite.evaluation.inference import evaluate
from detlite.evaluation.pascal_voc import PascalVOCEvaluator
from detlite.parts import import_modules

__all__ = ["CocoEvaluator", "DetectionAnalysis", "Evaluator", "PascalVOCEvaluator", "choose_thresholds", "evaluate"]

import_modules(__name__)
