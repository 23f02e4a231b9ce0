"""The first stage: where in the image something may be."""

from detlite.modeling.rpn.rpn import RPN

__all__ = ["RPN"]
