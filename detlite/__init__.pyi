from collections.abc import Callable
from typing import Any

from detlite.config import Config
from detlite.prediction.detector import Detector as Detector

__version__: str

def train(cfg: Config, resume: bool = False, adapt: Callable[[Any], Any] = ...) -> dict[str, Any]: ...
def test(
    cfg: Config, weights: Any, page: bool = False, compare: str | None = None, thresholds: Any = None
) -> dict[str, Any]: ...
