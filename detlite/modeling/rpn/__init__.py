"""The first stage: regions of the image that may be objects."""

from detlite.modeling.rpn.rpn import RPN

__all__ = ["RPN"]
