"""Pixel mean, std and channel order, which belong to weights."""

import logging
import math
from dataclasses import dataclass

import torch

from detlite.config import override
from detlite.errors import UserError

logger = logging.getLogger("detlite")


@dataclass(frozen=True)
class Pixels:
    """Pixel statistics. A network's input is ``(value - mean) / std`` per channel."""

    mean: tuple  # three numbers, 0-255, in channel_order
    std: tuple  # as well
    channel_order: str  # "RGB" or "BGR"

    def __str__(self):
        mean = [round(value, 4) for value in self.mean]
        std = [round(value, 4) for value in self.std]
        return f"{self.channel_order}, mean {mean}, std {std}"

    def entries(self):
        """Return the entries of a checkpoint, which :func:`pixels_of` reads."""
        return {"pixel_mean": list(self.mean), "pixel_std": list(self.std), "channel_order": self.channel_order}

    def ordered(self, channel_order):
        """Return the same statistics with the channels in the given order."""
        if channel_order == self.channel_order:
            return self
        return Pixels(self.mean[::-1], self.std[::-1], channel_order)

    def agrees(self, other):
        """Check whether both are the same convention.

        Published means of a convention differ by up to 2 gray levels, stds by 2 %.

        >>> Pixels((102.9, 115.9, 122.8), (1., 1., 1.), "BGR").agrees(CAFFE), IMAGENET.agrees(CAFFE)
        (True, False)
        """
        close = _all_close(self.mean, other.mean, abs_tol=2) and _all_close(self.std, other.std, rel_tol=0.02)
        return close and self.channel_order == other.channel_order


IMAGENET = Pixels((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "RGB")  # torchvision's
CAFFE = Pixels((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), "BGR")  # of Simonyan's and Zisserman's VGGs
KEYS = ("PIXEL_MEAN", "PIXEL_STD", "CHANNEL_ORDER")  # of a config's MODEL node

# The upper left weights of the first filter in the original VGG16, which identify it in any file. [B, G, R]
_CAFFE_FILTER = torch.tensor([0.42947, 0.55037, 0.48003]).reshape(1, 3, 1, 1)


def _all_close(first, second, **tolerance):
    return all(math.isclose(a, b, **tolerance) for a, b in zip(first, second, strict=True))


def pixels_of(holder):
    """Return the :class:`Pixels` in a checkpoint's content or a config's MODEL node, or None if an entry is missing.

    The entries ``pixel_mean``, ``pixel_std`` and ``channel_order`` are in lower case or capitals. Wrong types or values
    raise a UserError.
    """
    found = [holder.get(key.lower(), holder.get(key)) for key in KEYS]
    mean, std, channel_order = found
    if mean is None or std is None or channel_order is None:
        return None
    try:
        mean, std = tuple(map(float, mean)), tuple(map(float, std))
    except (TypeError, ValueError, OverflowError, RuntimeError):  # not lists of numbers, but perhaps tensors
        mean = std = ()
    is_valid = len(mean) == len(std) == 3 and min(std) > 0 and all(map(math.isfinite, mean + std))
    if not is_valid or channel_order not in ("RGB", "BGR"):
        raise UserError(f"pixel_mean and pixel_std must be three numbers each, channel_order RGB or BGR, got {found}")
    return Pixels(mean, std, channel_order)


def recognize_caffe(weight):
    """Return the :class:`Pixels` of a first layer's weight, or None if it is not the original VGG16's.

    Some files hold a first layer that was converted to other statistics. These are recognized as well.
    """
    if weight is None or weight.shape != (64, 3, 3, 3):
        return None
    for pixels in (CAFFE, CAFFE.ordered("RGB"), IMAGENET):
        converted, _ = convert_first_layer(_CAFFE_FILTER, torch.zeros(1), CAFFE, pixels)
        if torch.allclose(weight[:1, :, :1, :1].float(), converted, rtol=2e-3, atol=0):
            return pixels
    return None


def convert_first_layer(weight, bias, trained, wanted):
    """Return weight and bias of a first convolution, float32, converted from ``trained`` to ``wanted`` :class:`Pixels`.

    The converted layer gives the same output for the same image. This is exact, except at the image's border if the
    means differ, because zero padding then has another color. ``weight`` is (C, 3, k, k), ``bias`` (C,) or None. If the
    means differ and no bias can absorb that, a UserError is raised.
    """
    weight = weight.float()
    if trained.channel_order != wanted.channel_order:
        weight, trained = weight.flip(1), trained.ordered(wanted.channel_order)

    # w * (x - mean) / std = w * (wanted.std / std) * (x - wanted.mean) / wanted.std + w * (wanted.mean - mean) / std
    mean, std = torch.tensor(trained.mean), torch.tensor(trained.std)
    shift = (torch.tensor(wanted.mean) - mean) / std
    if bias is not None:
        bias = bias.float() + (weight * shift[:, None, None]).sum(dim=(1, 2, 3))
    elif shift.any():
        raise UserError(f"a first layer without bias cannot be converted from pixels {trained} to {wanted}")
    return weight * (torch.tensor(wanted.std) / std)[:, None, None], bias


def agree_on_pixels(cfg, weights, exact=False):
    """Return the config with the pixel statistics of ``weights``, unless a layer of the config sets some.

    Other statistics in the config are a UserError if ``exact`` is true. Otherwise a warning is logged, and
    :func:`~detlite.checkpoint.weights.load_weights` converts the first layer to the config's statistics.
    """
    configured = pixels_of(cfg.MODEL)
    if configured is None:  # a custom detector without pixel statistics
        return cfg
    set_by = ", ".join(sorted({cfg.MODEL.sources[key] for key in KEYS} - {"default"}))
    if weights.pixels is None:
        text = f"{weights.source} does not contain its pixel statistics; the model uses {configured}"
        if set_by:
            logger.info("%s, from %s", text, set_by)
        else:
            logger.warning("%s, the default: check that the weights were trained with them", text)
        return cfg
    if not set_by:
        entries = weights.pixels.entries()
        return override(cfg, {f"MODEL.{key.upper()}": value for key, value in entries.items()}, weights.source)
    if configured.agrees(weights.pixels):
        return cfg
    message = f"{set_by}: MODEL uses pixels {configured}, but {weights.source} was trained with {weights.pixels}"
    remedy = f"remove {', '.join(KEYS)} from the config to use the weights' values"
    if exact:
        raise UserError(f"{message}; {remedy}")
    logger.warning("%s. The first convolution is converted to MODEL's; %s", message, remedy)
    return cfg
