"""Build the detector that a config describes, on its device."""

import contextlib
import logging

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

from detlite.config import Config
from detlite.errors import UserError
from detlite.modeling.backbone.torchvision_backbone import freeze_batch_norm
from detlite.parameters import parameters_within
from detlite.registry import META_ARCHITECTURES

logger = logging.getLogger(__name__)

# Functions that fill a tensor, their first argument, with random numbers.
RANDOM = {torch.Tensor.normal_, torch.Tensor.uniform_, init.normal_, init.uniform_, init.trunc_normal_}
RANDOM |= {init.kaiming_normal_, init.kaiming_uniform_, init.xavier_normal_, init.xavier_uniform_}


def build_model(cfg: Config, initialize: bool = True) -> torch.nn.Module:
    """Build the detector that a config describes, untrained, on ``cfg.MODEL.DEVICE``.

    It is a torch.nn.Module with the interface of torchvision's detectors; see the registry ``META_ARCHITECTURES``.
    ``initialize=False`` leaves random parameters uninitialized, for a model whose weights are all loaded next.
    """
    with contextlib.nullcontext() if initialize else _NoRandomParameters():
        model = META_ARCHITECTURES.build(cfg.MODEL, len(cfg.MODEL.CLASSES))
    freeze(model, cfg.MODEL.FREEZE)
    return model.to(choose_device(cfg.MODEL.DEVICE), memory_format=torch.channels_last)


def freeze(model, prefixes):
    """Freeze the parameters whose names begin with one of the prefixes, and the statistics of their BatchNorm2d."""
    for prefix in prefixes:
        try:
            frozen = parameters_within(dict(model.named_parameters()), prefix, "the model")
        except ValueError as error:
            raise UserError(f"MODEL.FREEZE: {error}") from None
        for parameter in frozen.values():
            parameter.requires_grad_(False)
        modules = dict(model.named_modules())
        parent, _, name = prefix.rpartition(".")
        if prefix in modules:  # otherwise it is the name of a parameter
            setattr(modules[parent], name, freeze_batch_norm(modules[prefix]))


class _NoRandomParameters(TorchFunctionMode):
    """Skip filling parameters at random, which takes seconds for VGG16."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Call a function, unless it would fill a parameter."""
        kwargs = kwargs or {}
        if function in RANDOM:
            tensor = args[0] if args else kwargs["tensor"]
            if isinstance(tensor, torch.nn.Parameter):
                return tensor
        return function(*args, **kwargs)


def choose_device(name):
    """Return the torch.device that MODEL.DEVICE names. "auto" is a CUDA GPU if there is one, else the CPU.

    Raises:
        UserError: there is no such device, or it cannot compute.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        # Fails if this build of torch has no kernels for the GPU, or if the device holds no numbers ("meta").
        torch.zeros(1, device=device).add_(1).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"MODEL.DEVICE: {name!r} cannot be used here: {reason}; auto finds a device") from None
    if device.type == "mps":  # see https://github.com/pytorch/vision/pull/9510
        logger.warning(
            "MODEL.DEVICE mps: detlite is not tested on Apple GPUs; compare some detections with the CPU's. "
            "Training needs torchvision 0.29: earlier versions have wrong gradients of RoI pooling there"
        )
    return device
