"""Pixel mean, std and channel order: they belong to weights, and travel with them."""

import logging
import math
from dataclasses import dataclass

import torch

from detlite.config import override
from detlite.errors import UserError

logger = logging.getLogger("detlite")


@dataclass(frozen=True)
class Pixels:
    """How an image becomes a network's input: ``(value - mean) / std`` for each channel, in ``channel_order``.

    Args:
        mean: three numbers, 0-255, in channel_order.
        std: three numbers, 0-255, in channel_order.
        channel_order: "RGB" or "BGR".
    """

    mean: tuple
    std: tuple
    channel_order: str

    def __str__(self):
        mean, std = ([round(value, 4) for value in values] for values in (self.mean, self.std))
        return f"{self.channel_order}, mean {mean}, std {std}"

    def entries(self):
        """As entries of a checkpoint, and in capitals as config keys; :func:`pixels_of` reads them."""
        return {"pixel_mean": list(self.mean), "pixel_std": list(self.std), "channel_order": self.channel_order}

    def ordered(self, channel_order):
        """The same with the channels in the given order."""
        if channel_order == self.channel_order:
            return self
        return Pixels(self.mean[::-1], self.std[::-1], channel_order)

    def agrees(self, other):
        """Whether both are one convention: ImageNet's mean is given to within two gray levels, its std to within 2 %.

        >>> Pixels((103.939, 116.779, 123.68), (1., 1., 1.), "BGR").agrees(CAFFE)
        True
        >>> IMAGENET.agrees(CAFFE)
        False
        """
        return (
            self.channel_order == other.channel_order
            and all(math.isclose(a, b, abs_tol=2) for a, b in zip(self.mean, other.mean, strict=True))
            and all(math.isclose(a, b, rel_tol=0.02) for a, b in zip(self.std, other.std, strict=True))
        )


IMAGENET = Pixels((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "RGB")  # torchvision's
CAFFE = Pixels((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), "BGR")  # Simonyan and Zisserman's own VGGs

# The first filter's upper left weights in their VGG16, by which it is known under whatever name. [B, G, R]
_CAFFE_FILTER = (0.42947, 0.55037, 0.48003)


def pixels_of(holder):
    """The pixels that a file's content or a config's MODEL node speaks of.

    Args:
        holder: a mapping with ``pixel_mean``, ``pixel_std`` and ``channel_order``, in small letters or capitals.

    Returns:
        :class:`Pixels`, or None if any of the three is missing.

    Raises:
        ValueError: they are no two lists of three numbers and RGB or BGR.
    """
    found = [holder.get(key, holder.get(key.upper())) for key in ("pixel_mean", "pixel_std", "channel_order")]
    if any(value is None for value in found):
        return None
    try:
        mean, std = (tuple(float(value) for value in values) for values in found[:2])
    except TypeError:
        mean = std = ()
    if len(mean) != 3 or len(std) != 3 or not min(std) > 0 or found[2] not in ("RGB", "BGR"):
        raise ValueError(f"pixel_mean, pixel_std, channel_order are not two triples and RGB or BGR, but {found}")
    return Pixels(mean, std, found[2])


def recognize_caffe(weight):
    """The convention of a first layer that is the original VGG16's: Caffe's own, or one that it was converted to.

    Args:
        weight: (64, 3, 3, 3), or any other tensor.

    Returns:
        :class:`Pixels`, or None if it is another net's.
    """
    if weight is None or weight.shape != (64, 3, 3, 3):
        return None
    corner = weight[:1, :, :1, :1].float()  # [1, 3, 1, 1]
    known = torch.tensor(_CAFFE_FILTER).reshape(1, 3, 1, 1)
    for pixels in (CAFFE, CAFFE.ordered("RGB"), IMAGENET):
        converted, _ = convert_first_layer(known, torch.zeros(1), CAFFE, pixels)
        if torch.allclose(corner, converted, rtol=2e-3, atol=0):
            return pixels
    return None


def convert_first_layer(weight, bias, trained, wanted):
    """A first convolution that gives from ``wanted`` pixels what the given one gives from those it was trained with.

    Exact, except that where the means differ, zero padding at the image's border stands for another color.

    Args:
        weight: (C, 3, k, k).
        bias: (C,), or None if the layer has none.
        trained: the :class:`Pixels` that the layer takes.
        wanted: those that the new one shall take.

    Returns:
        weight and bias, float32.

    Raises:
        ValueError: the means differ, and there is no bias to take that up.
    """
    weight = weight.float()
    if trained.channel_order != wanted.channel_order:
        weight, trained = weight.flip(1), trained.ordered(wanted.channel_order)
    mean, std = torch.tensor(trained.mean), torch.tensor(trained.std)
    shift = (torch.tensor(wanted.mean) - mean) / std  # what the wanted mean's color was to the layer
    if bias is not None:
        bias = bias.float() + (weight * shift[:, None, None]).sum(dim=(1, 2, 3))
    elif shift.any():
        raise ValueError("the first layer has no bias, so it cannot be converted to another PIXEL_MEAN")
    return weight * (torch.tensor(wanted.std) / std)[:, None, None], bias


def agree_on_pixels(cfg, weights, exact=False):
    """The config with the weights' pixel statistics, where no layer of the config set others.

    Args:
        cfg: what :func:`detlite.config.load_config` returned.
        weights: a :class:`~detlite.checkpoint.weights.Weights`.
        exact: whether a config that sets other statistics is refused; otherwise it is told so, in the log, and
            :func:`~detlite.checkpoint.weights.load_weights` converts the first layer to what the config wants.

    Raises:
        UserError: ``exact``, and the config contradicts the weights.
    """
    configured = pixels_of(cfg.MODEL)
    if configured is None:  # a detector of another kind
        return cfg
    keys = ("PIXEL_MEAN", "PIXEL_STD", "CHANNEL_ORDER")
    free = [key for key in keys if cfg.MODEL.sources[key] == "default"]
    set_by = ", ".join(sorted({cfg.MODEL.sources[key] for key in set(keys) - set(free)}))
    if weights.pixels is None:
        text = "%s does not say which pixels it was trained with; it is given %s, as %s"
        level = logging.INFO if set_by else logging.WARNING
        why = f"{set_by} says" if set_by else "is the default: are these right for it?"
        logger.log(level, text, weights.source, configured, why)
        return cfg
    trained = weights.pixels
    if "CHANNEL_ORDER" not in free:
        trained = trained.ordered(configured.channel_order)
    cfg = override(cfg, {f"MODEL.{key}": trained.entries()[key.lower()] for key in free}, weights.source)
    configured = pixels_of(cfg.MODEL)
    if not configured.agrees(weights.pixels):
        message = (
            f"{set_by}: MODEL takes pixels as {configured}, but {weights.source} was trained with {weights.pixels}"
        )
        remedy = f"leave {', '.join(keys)} out to take the weights' own"
        if exact:
            raise UserError(f"{message}; {remedy}")
        logger.warning("warning: %s. The first convolution is converted to the former; %s", message, remedy)
    return cfg
