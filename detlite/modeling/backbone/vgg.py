"""VGG's convolutions (Simonyan and Zisserman 2015), without the last max-pooling."""

import math
from typing import Literal

from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detlite.ops.convolution import Conv3x3
from detlite.ops.max_pool import run_layers
from detlite.registry import BACKBONES

# Convolutions in each of the five stages, by depth.
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)


@BACKBONES.register()
class VGG(nn.Module):
    """VGG-11, 13, 16 or 19 up to conv5_x.

    By default it has one feature level, "conv5", of stride 16. Parameters are named as in
    ``torchvision.models.vgg16().features``.

    Args:
        depth: layers with weights in the classification net: 11, 13, 16 or 19.
        norm: none, BatchNorm after each convolution, or FrozenBatchNorm, which keeps the loaded statistics.
        freeze_at: number of stages to freeze, from conv1 on, with their BatchNorm; 2 freezes conv1 and conv2.
        width: factor on every layer's channels, for small machines.
        levels: stages whose outputs are the feature levels, finest first: conv1 (stride 1) to conv5 (stride 16).
    """

    def __init__(
        self,
        *,
        depth: Literal[11, 13, 16, 19] = 16,
        norm: Literal["none", "BatchNorm", "FrozenBatchNorm"] = "none",
        freeze_at: int = 2,
        width: float = 1.0,
        levels: list[Literal["conv1", "conv2", "conv3", "conv4", "conv5"]] = ("conv5",),
    ):
        super().__init__()
        if not 0 <= freeze_at <= 5:
            raise ValueError(f"freeze_at counts VGG's stages, 0 to 5; got {freeze_at}")
        if not 0 < width < math.inf:
            raise ValueError(f"width must be a number above 0, got {width}")
        if not levels or list(levels) != sorted(set(levels)):
            raise ValueError(f"levels must be one stage or more, finest first, got {list(levels)}")

        # All layers in one sequence, named as torchvision's.
        layers = []
        self.channels, self.strides = {}, {}
        self._ends = {}  # {level: number of layers up to its last ReLU}
        in_channels = 3
        for stage, (count, channels) in enumerate(zip(STAGES[depth], CHANNELS, strict=True), start=1):
            channels = max(1, round(channels * width))
            layers += make_stage(in_channels, channels, count, norm, is_frozen=stage <= freeze_at)
            in_channels = channels

            # A level is the stage's output before it is pooled.
            name = f"conv{stage}"
            if name in levels:
                self.channels[name], self.strides[name] = channels, 2 ** (stage - 1)
                self._ends[name] = len(layers)
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))

        # Layers beyond the last level are not needed.
        self.features = nn.Sequential(*layers[: max(self._ends.values())])
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the levels: (N, 3, H, W) -> {level: (N, C, H // stride, W // stride)}."""
        # run_layers gives the same result as calling each layer. On the CPU it needs less memory and time.
        layers, features, start = list(self.features), {}, 0
        for level, end in self._ends.items():
            images = run_layers(layers[start:end], images)
            features[level] = images
            start = end
        return features


def make_stage(in_channels, channels, count, norm, is_frozen):
    """Return a stage's layers: convolutions, each followed by an optional BatchNorm and a ReLU."""
    # A frozen stage keeps the statistics of its BatchNorm, too.
    is_batch_norm_trained = norm == "BatchNorm" and not is_frozen
    batch_norm = nn.BatchNorm2d if is_batch_norm_trained else FrozenBatchNorm2d
    layers = []
    for _ in range(count):
        layers.append(Conv3x3(in_channels, channels).requires_grad_(not is_frozen))
        if norm != "none":
            layers.append(batch_norm(channels))
        layers.append(nn.ReLU(inplace=True))
        in_channels = channels
    return layers
