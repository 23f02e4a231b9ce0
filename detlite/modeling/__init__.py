"""The detector and its parts; importing this registers them."""

import torch

from detlite.errors import UserError
from detlite.modeling.faster_rcnn import FasterRCNN
from detlite.registry import META_ARCHITECTURES, import_modules

__all__ = ["FasterRCNN", "build_model", "choose_device"]

import_modules(__name__)


def build_model(cfg):
    """The detector that a config describes, untrained, on ``cfg.MODEL.DEVICE``.

    Args:
        cfg: what :func:`detlite.config.load_config` returned.

    Returns:
        torch.nn.Module with torchvision's face; see the registry ``META_ARCHITECTURES``.
    """
    model = META_ARCHITECTURES.build(cfg.MODEL, len(cfg.MODEL.CLASSES))
    return model.to(choose_device(cfg.MODEL.DEVICE), memory_format=torch.channels_last)


def choose_device(name):
    """The torch.device that MODEL.DEVICE names; "auto" is a GPU if there is one, else the CPU.

    Raises:
        UserError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"MODEL.DEVICE: {name!r} cannot be used here: {reason} (auto takes what there is)") from None
    return device
