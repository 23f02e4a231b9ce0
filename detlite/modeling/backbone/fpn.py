"""Feature pyramids."""

from collections import OrderedDict
from typing import Literal

from torch import nn
from torchvision.ops import FeaturePyramidNetwork

from detlite.errors import require
from detlite.parts import Slot
from detlite.registry import BACKBONES
from detlite.signature import constructor_arguments


@BACKBONES.register()
class FPN(nn.Module):
    """A feature pyramid on top of another backbone's levels (Lin et al. 2017).

    All levels have the same channels. A coarser level, "pool", subsampled from the last, may be added for large
    anchors.

    Args:
        out_channels: channels of every level.
        extra_level: whether "pool" is added.
        norm: none, or BatchNorm or GroupNorm (for small batches) instead of a bias after each convolution.
    """

    slots = {"BOTTOM_UP": Slot(BACKBONES, "VGG", levels=["conv3", "conv4", "conv5"])}

    def __init__(
        self,
        bottom_up,
        *,
        out_channels: int = 256,
        extra_level: bool = True,
        norm: Literal["none", "BatchNorm", "GroupNorm"] = "none",
    ):
        super().__init__()
        require(out_channels >= 1, "out_channels must be at least 1", out_channels)
        require(norm != "GroupNorm" or out_channels % 32 == 0, "GroupNorm needs multiples of 32 channels", out_channels)
        if extra_level and "pool" in bottom_up.strides:
            levels = ", ".join(bottom_up.strides)
            raise ValueError(f"BOTTOM_UP has a level pool already, {levels}; set EXTRA_LEVEL to false here or there")
        self.bottom_up = bottom_up
        norm_layer = {"none": None, "BatchNorm": nn.BatchNorm2d, "GroupNorm": lambda n: nn.GroupNorm(32, n)}[norm]
        self.pyramid = FeaturePyramidNetwork(list(bottom_up.channels.values()), out_channels, norm_layer=norm_layer)
        self.extra_level = extra_level
        self.strides = dict(bottom_up.strides)
        if extra_level:
            self.strides["pool"] = 2 * max(bottom_up.strides.values())
        self.channels = dict.fromkeys(self.strides, out_channels)

    @classmethod
    def from_config(cls, node):
        """Build the FPN that a config node describes."""
        return cls(BACKBONES.build(node.BOTTOM_UP), **constructor_arguments(cls, node))

    def forward(self, images):
        """Return the levels: {name: (N, out_channels, H / stride, W / stride)}."""
        features = self.pyramid(OrderedDict(self.bottom_up(images)))
        if self.extra_level:
            coarsest = next(reversed(features.values()))
            features["pool"] = nn.functional.max_pool2d(coarsest, kernel_size=1, stride=2)
        return features
