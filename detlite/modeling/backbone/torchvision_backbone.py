"""torchvision's classification nets as backbones."""

import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from torchvision.ops import FrozenBatchNorm2d

from detlite.errors import UserError, suggest
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
            raise UserError(f"torchvision has no classification model called {model!r}{suggest(model, names)}")
        net = torchvision.models.get_model(model, weights=None)
        _, choices = get_graph_node_names(net)
        choices += [name for name, _ in net.named_modules() if name and name not in choices]
        for layer in layers:
            if layer not in choices and not any(name.startswith(f"{layer}.") for name in choices):
                tops = [name for name in choices if name.count(".") <= 1]
                raise UserError(f"{model} has no layer called {layer!r}{suggest(layer, tops)}")
        body = create_feature_extractor(net, {layer: layer for layer in layers})
        for name, parameter in body.named_parameters():
            parameter.requires_grad_(not any(name == layer or name.startswith(f"{layer}.") for layer in freeze))
        self.body = freeze_batch_norm(body) if frozen_batch_norm else body
        self.channels, self.strides = measure(self)

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
    """Channels and strides of a backbone's levels, from one blank image: two dicts by level name."""
    was_training = backbone.training
    backbone.eval()
    features = backbone(torch.zeros(1, 3, size, size))
    backbone.train(was_training)
    channels = {name: level.shape[1] for name, level in features.items()}
    strides = {name: size // level.shape[-1] for name, level in features.items()}
    return channels, strides
