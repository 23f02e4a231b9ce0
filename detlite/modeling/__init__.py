"""The detector and its parts, which importing this package registers."""

from detlite.modeling.build import build_model, choose_device
from detlite.modeling.faster_rcnn import FasterRCNN
from detlite.parts import import_modules

__all__ = ["FasterRCNN", "build_model", "choose_device"]

import_modules(__name__)
