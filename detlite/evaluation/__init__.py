"""Scores and pictures of what a detector found."""

from detlite.evaluation.coco import CocoEvaluator, score_predictions, summarize
from detlite.evaluation.pictures import draw_detections, save_picture

__all__ = ["CocoEvaluator", "draw_detections", "save_picture", "score_predictions", "summarize"]
