"""torchvision's classification nets as backbones."""

import math

import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from torchvision.ops import FrozenBatchNorm2d

from detlite.errors import suggest
from detlite.parameters import is_within, parameters_within
from detlite.registry import BACKBONES


class CutNet(nn.Module):
    """A classification net whose inner layers are the feature levels.

    Args:
        body: the net up to its last level, from images to {level: features}.
        title: its name, for messages.
        freeze: names of the layers (or their beginnings) kept as loaded, such as [conv1, bn1, layer1].
        frozen_batch_norm: whether BatchNorm keeps its loaded statistics everywhere, as usual for pretrained weights.
        batch_norm_eps: added to BatchNorm's variances; null is the net's own, 0 that of torchvision's COCO weights.
    """

    def __init__(
        self,
        body,
        title,
        *,
        freeze: list[str] = (),
        frozen_batch_norm: bool = True,
        batch_norm_eps: float | None = None,
    ):
        super().__init__()
        if batch_norm_eps is not None and not 0 <= batch_norm_eps < math.inf:
            raise ValueError(f"batch_norm_eps must be 0 or more, got {batch_norm_eps}")

        # A name in `freeze` is a layer, or the beginning of several layers' names.
        for layer in freeze:
            owner = f"freeze: up to its last level {title}"
            for parameter in parameters_within(dict(body.named_parameters()), layer, owner).values():
                parameter.requires_grad_(False)
        self.body = freeze_batch_norm(body) if frozen_batch_norm else body
        for layer in self.body.modules():
            if batch_norm_eps is not None and hasattr(layer, "running_var"):
                layer.eps = batch_norm_eps

        # Some nets take images of one size only, and some layers are no feature maps: only a run shows it.
        try:
            self.channels, self.strides = measure(self)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ValueError(f"{title} cannot be a backbone: {error}") from error

    def forward(self, images):
        """Return the levels: (N, 3, H, W) -> {layer: (N, C, H / stride, W / stride)}."""
        return self.body(images)


@BACKBONES.register()
class TorchvisionBackbone(CutNet):
    """Any classification net of torchvision, cut at named layers.

    Each of the layers is one feature level. Strides and channels are measured on an image. ResNet-50 cut at "layer3" is
    the C4 backbone that Res5BoxHead continues; MobileNetV3's last level is "features".

    Args:
        model: a name of torchvision.models, such as resnet50 or mobilenet_v3_large.
        layers: names of the layers whose outputs are the levels, finest first, such as [layer3].
        stride_in_1x1: whether a ResNet has its strides in 1 x 1 convolutions, as in detectron2, not in 3 x 3 ones.
    """

    def __init__(
        self, *, model: str = "resnet50", layers: list[str] = ("layer3",), stride_in_1x1: bool = False, **kwargs
    ):
        names = torchvision.models.list_models(module=torchvision.models)
        if model not in names:
            raise ValueError(f"torchvision has no classification model called {model!r}{suggest(model, names)}")
        if not layers or len(set(layers)) < len(layers):
            raise ValueError(f"layers are the names of one level or several, none twice, got {list(layers)}")

        # A layer is a module of the net, or an operation between its modules, such as "flatten".
        net = torchvision.models.get_model(model, weights=None)
        choices = {*get_graph_node_names(net)[1], *dict(net.named_modules())} - {""}
        for layer in layers:
            if not any(is_within(name, layer) for name in choices):
                tops = [name for name in choices if name.count(".") <= 1]
                raise ValueError(f"{model} has no layer called {layer!r}{suggest(layer, tops)}")
        if stride_in_1x1:
            move_strides(net, model)
        super().__init__(create_feature_extractor(net, list(layers)), f"{model} cut at {list(layers)}", **kwargs)


def move_strides(net, model):
    """Move the stride of each block of a ResNet from its 3 x 3 to its first 1 x 1 convolution."""
    blocks = [block for block in net.modules() if isinstance(block, torchvision.models.resnet.Bottleneck)]
    if not blocks:
        raise ValueError(f"stride_in_1x1 is for ResNets with 1 x 1 convolutions, such as resnet50, got {model}")
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def freeze_batch_norm(module):
    """Replace each BatchNorm2d in a module, or the module, by a FrozenBatchNorm2d of the same values. Return it."""
    if type(module).__module__.startswith("timm."):
        from timm.layers import freeze_batch_norm_2d  # timm's may contain the activation

        return freeze_batch_norm_2d(module)
    if isinstance(module, nn.BatchNorm2d):
        frozen = FrozenBatchNorm2d(module.num_features, eps=module.eps)
        values = module.state_dict()
        frozen.load_state_dict({key: values[key] for key in frozen.state_dict()})
        return frozen
    for name, child in module.named_children():
        setattr(module, name, freeze_batch_norm(child))
    return module


@torch.no_grad()
def measure(backbone, size=256):
    """Measure a backbone's channels and strides: two dicts by level name.

    Raises:
        ValueError: the shape of a level is not (N, C, H / stride, W / stride).
    """
    was_training = backbone.training
    backbone.eval()
    features = backbone(torch.zeros(1, 3, size, 2 * size))
    backbone.train(was_training)

    # The image is twice as wide as high, so that levels with swapped axes are noticed.
    channels, strides = {}, {}
    for name, level in features.items():
        shape = tuple(level.shape)
        if len(shape) != 4 or 2 * shape[2] != shape[3] or size % shape[2]:
            given = f"{name} gives {shape} for an image of (height, width) {(size, 2 * size)}"
            raise ValueError(f"{given}; expected (1, channels, height / stride, width / stride)")
        channels[name], strides[name] = shape[1], size // shape[2]
    return channels, strides
