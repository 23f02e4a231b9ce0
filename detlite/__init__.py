"""detlite: a VGG16 Faster R-CNN put together from named, interchangeable parts."""

__version__ = "0.1.0"


def __getattr__(name):
    """``detlite.Detector``, which brings in torch only when it is asked for."""
    if name == "Detector":
        import importlib

        return importlib.import_module("detlite.prediction.detector").Detector
    raise AttributeError(f"module 'detlite' has no attribute {name!r}")
