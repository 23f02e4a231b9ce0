"""The detector and its parts; importing this package registers them."""

from detlite.modeling.build import build_model, choose_device
from detlite.modeling.faster_rcnn import FasterRCNN
from detlite.parts import import_modules

__all__ = ["FasterRCNN", "build_model", "choose_device"]

import_modules(__name__)
