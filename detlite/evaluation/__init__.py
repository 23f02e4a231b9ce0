"""Turn detections into numbers."""

from detlite.evaluation.analysis import DetectionAnalysis
from detlite.evaluation.coco import CocoEvaluator
from detlite.evaluation.pascal_voc import PascalVOCEvaluator
from detlite.parts import import_modules

__all__ = ["CocoEvaluator", "DetectionAnalysis", "PascalVOCEvaluator"]

import_modules(__name__)
