"""detlite: build the VGG16 Faster R-CNN, and other detectors, from interchangeable parts."""

import importlib

__version__ = "0.1.0"

# Imported on demand: they bring in torch.
__all__ = ["Detector", "test", "train"]
_HOMES = {"Detector": "prediction.detector", "train": "engine.train", "test": "engine.test"}


def __getattr__(name):
    """Import ``detlite.Detector``, ``detlite.train`` or ``detlite.test``."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"detlite.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'detlite' has no attribute {name!r}")
