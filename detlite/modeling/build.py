"""Build the detector that a config describes, on its device."""

import contextlib

import torch
from torch.overrides import TorchFunctionMode

from detlite.errors import UserError
from detlite.registry import META_ARCHITECTURES

RANDOM = {torch.Tensor.normal_, torch.Tensor.uniform_} | {
    getattr(torch.nn.init, f"{name}_")
    for name in "normal uniform trunc_normal kaiming_normal kaiming_uniform xavier_normal xavier_uniform".split()
}


def build_model(cfg, initialize=True):
    """The detector that a config describes, untrained, on ``cfg.MODEL.DEVICE``.

    Args:
        cfg: what :func:`detlite.config.load_config` returned.
        initialize: False leaves parameters that would be random as the memory holds them: all are loaded anyway.

    Returns:
        torch.nn.Module with torchvision's face; see the registry ``META_ARCHITECTURES``.
    """
    with contextlib.nullcontext() if initialize else _NoRandomParameters():
        model = META_ARCHITECTURES.build(cfg.MODEL, len(cfg.MODEL.CLASSES))
    return model.to(choose_device(cfg.MODEL.DEVICE), memory_format=torch.channels_last)


class _NoRandomParameters(TorchFunctionMode):
    """Parameters are not filled at random: for VGG16's 137 million that takes seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Call a function, unless it would fill a parameter."""
        kwargs = kwargs or {}
        if function in RANDOM and isinstance(tensor := args[0] if args else kwargs["tensor"], torch.nn.Parameter):
            return tensor
        return function(*args, **kwargs)


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
