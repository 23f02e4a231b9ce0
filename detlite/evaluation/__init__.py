"""Turn detections into numbers."""

from detlite.parts import import_modules

import_modules(__name__)
