"""What every view of :mod:`detlite.inspection.visualize` is handed."""

from typing import NamedTuple

import torch

from detlite.config import Config


class Scene(NamedTuple):
    """An image on its way through a detector.

    Attributes:
        cfg: the config.
        model: the detector, in evaluation mode.
        is_trained: whether its weights were loaded.
        split: "train" or "test": which data set and transforms.
        original: (3, H, W) uint8, as in the file; ``truth`` is its target.
        image: (3, h, w), transformed; ``target`` is its target, with a "seed".
        score_threshold: detections that score less are not shown.
    """

    cfg: Config
    model: torch.nn.Module
    is_trained: bool
    split: str
    original: torch.Tensor
    truth: dict
    image: torch.Tensor
    target: dict
    score_threshold: float


def object_names(scene, target):
    """The class names of a target's objects."""
    return [scene.cfg.MODEL.CLASSES[label - 1] for label in target["labels"].tolist()]
