"""detlite: a VGG16 Faster R-CNN put together from named, interchangeable parts."""

__version__ = "0.1.0"
