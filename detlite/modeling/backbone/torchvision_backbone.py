"""torchvision's classification nets as backbones."""

import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from torchvision.ops import FrozenBatchNorm2d

from detlite.errors import suggest
from detlite.registry import BACKBONES


@BACKBONES.register()
class TorchvisionBackbone(nn.Module):
    """Any classification net of torchvision, cut at named layers; each is one feature level.

    Strides and channels are measured on an image. ResNet-50 cut at "layer3" is the C4 backbone that Res5BoxHead
    continues; MobileNetV3's "features" is its last level.

    Args:
        model: a name of torchvision.models, such as resnet50 or mobilenet_v3_large.
        layers: names of the layers whose outputs are the levels, finest first, such as [layer3].
        freeze: names of the layers (or their beginnings) kept as loaded, such as [conv1, bn1, layer1].
        frozen_batch_norm: whether BatchNorm keeps its loaded statistics everywhere, as for pretrained weights.
    """

    def __init__(
        self,
        *,
        model: str = "resnet50",
        layers: list[str] = ("layer3",),
        freeze: list[str] = (),
        frozen_batch_norm: bool = True,
    ):
        super().__init__()
        names = torchvision.models.list_models(module=torchvision.models)
        if model not in names:
            raise ValueError(f"torchvision has no classification model called {model!r}{suggest(model, names)}")
        if not layers or len(set(layers)) < len(layers):
            raise ValueError(f"layers are the names of one level or several, none twice, got {list(layers)}")
        net = torchvision.models.get_model(model, weights=None)
        _, choices = get_graph_node_names(net)
        choices += [name for name, _ in net.named_modules() if name and name not in choices]
        for layer in layers:
            if layer not in choices and not any(name.startswith(f"{layer}.") for name in choices):
                tops = [name for name in choices if name.count(".") <= 1]
                raise ValueError(f"{model} has no layer called {layer!r}{suggest(layer, tops)}")
        body = create_feature_extractor(net, {layer: layer for layer in layers})
        for layer in freeze:
            if not any(f"{name}.".startswith(f"{layer}.") for name, _ in body.named_parameters()):
                tops = {".".join(name.split(".")[:depth]) for name, _ in body.named_parameters() for depth in (1, 2)}
                raise ValueError(
                    f"freeze: up to its last level {model} has no weights in {layer!r}{suggest(layer, tops)}"
                )
        for name, parameter in body.named_parameters():
            parameter.requires_grad_(not any(name == layer or name.startswith(f"{layer}.") for layer in freeze))
        self.body = freeze_batch_norm(body) if frozen_batch_norm else body
        try:
            self.channels, self.strides = measure(self)
        except (AssertionError, RuntimeError, ValueError) as error:  # some nets take images of one size alone
            raise ValueError(f"{model} cut at {list(layers)} does not do for a backbone: {error}") from error

    def forward(self, images):
        """(N, 3, H, W) -> {layer: (N, C, H / stride, W / stride)}."""
        return self.body(images)


def freeze_batch_norm(module):
    """The module with each BatchNorm2d replaced by torchvision's FrozenBatchNorm2d of the same values."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, eps=child.eps)
            frozen.load_state_dict({key: child.state_dict()[key] for key in frozen.state_dict()})
            setattr(module, name, frozen)
        else:
            freeze_batch_norm(child)
    return module


@torch.no_grad()
def measure(backbone, size=256):
    """Channels and strides of a backbone's levels, from one blank image twice as wide: two dicts by level name.

    Raises:
        ValueError: a level is none of (N, C, H / stride, W / stride).
    """
    was_training = backbone.training
    backbone.eval()
    features = backbone(torch.zeros(1, 3, size, 2 * size))
    backbone.train(was_training)
    for name, level in features.items():
        shape = tuple(level.shape)
        if len(shape) != 4 or 2 * shape[2] != shape[3] or size % shape[2]:
            raise ValueError(
                f"{name} gives {shape} for an image of (height, width) {(size, 2 * size)}, no (1, channels, height / "
                "stride, width / stride)"
            )
    channels = {name: level.shape[1] for name, level in features.items()}
    strides = {name: size // level.shape[2] for name, level in features.items()}
    return channels, strides
