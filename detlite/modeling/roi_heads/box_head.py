"""Box heads: from pooled features to one vector per box."""

from typing import Literal

import torchvision
from torch import Tensor, nn

from detlite.errors import require
from detlite.modeling.backbone.torchvision_backbone import freeze_batch_norm, move_strides
from detlite.ops.linear import Linear
from detlite.registry import BOX_HEADS


@BOX_HEADS.register()
class FCBoxHead(nn.Module):
    """VGG's fully connected layers fc6 and fc7, each with ReLU and dropout.

    Args:
        fc_dim: width of both layers.
        dropout: probability of dropping an output in training; 0 for none.
    """

    def __init__(self, in_channels: int, resolution: int, *, fc_dim: int = 4096, dropout: float = 0.5):
        super().__init__()
        require(fc_dim >= 1 and 0 <= dropout < 1, "need fc_dim >= 1 and 0 <= dropout < 1", fc_dim, dropout)
        self.fc6 = Linear(in_channels * resolution**2, fc_dim)
        self.fc7 = Linear(fc_dim, fc_dim)
        self.dropout = nn.Dropout(dropout)
        self.out_features = fc_dim
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return a vector per region: (S, C, P, P) -> (S, fc_dim)."""
        hidden = self.dropout(self.fc6(pooled.flatten(1)).relu_())
        return self.dropout(self.fc7(hidden).relu_())


@BOX_HEADS.register()
class ConvFCBoxHead(nn.Module):
    """Convolutions, then fully connected layers, each with ReLU (Wu and He 2018).

    Args:
        num_convs: 3 x 3 convolutions.
        conv_dim: channels of the convolutions.
        num_fcs: fully connected layers, at least one.
        fc_dim: width of the fully connected layers.
        norm: none, or BatchNorm instead of a bias after each convolution.
    """

    def __init__(
        self,
        in_channels,
        resolution,
        *,
        num_convs: int = 4,
        conv_dim: int = 256,
        num_fcs: int = 1,
        fc_dim: int = 1024,
        norm: Literal["none", "BatchNorm"] = "none",
    ):
        super().__init__()
        fits = num_convs >= 0 and min(num_fcs, conv_dim, fc_dim) >= 1
        rule = "need num_convs >= 0, num_fcs >= 1, conv_dim >= 1 and fc_dim >= 1"
        require(fits, rule, num_convs, num_fcs, conv_dim, fc_dim)

        # Each layer is initialized as it is built: the order of the random numbers is part of a seed's result.
        layers = []
        for _ in range(num_convs):
            conv = nn.Conv2d(in_channels, conv_dim, kernel_size=3, padding=1, bias=norm == "none")
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if norm == "none":
                nn.init.zeros_(conv.bias)
                layers += [conv, nn.ReLU(inplace=True)]
            else:
                layers.append(nn.Sequential(conv, nn.BatchNorm2d(conv_dim), nn.ReLU(inplace=True)))
            in_channels = conv_dim

        layers.append(nn.Flatten())  # (S, D, P, P) -> (S, D * P * P)
        in_features = in_channels * resolution**2
        for _ in range(num_fcs):
            layers += [Linear(in_features, fc_dim), nn.ReLU(inplace=True)]
            nn.init.kaiming_uniform_(layers[-2].weight, a=1)
            nn.init.zeros_(layers[-2].bias)
            in_features = fc_dim
        self.layers = nn.Sequential(*layers)
        self.out_features = fc_dim

    def forward(self, pooled):
        """Return a vector per region: (S, C, P, P) -> (S, fc_dim)."""
        return self.layers(pooled)


@BOX_HEADS.register()
class Res5BoxHead(nn.Module):
    """The last stage of a ResNet, averaged over cells (He et al. 2016, appendix A).

    It continues a TorchvisionBackbone of the same model that is cut at "layer3"; the usual RESOLUTION is 14.

    Args:
        model: a ResNet of torchvision.models, such as resnet50.
        frozen_batch_norm: whether BatchNorm keeps its loaded statistics.
        stride_in_1x1: the backbone's STRIDE_IN_1X1.
    """

    def __init__(
        self,
        in_channels,
        resolution,
        *,
        model: str = "resnet50",
        frozen_batch_norm: bool = True,
        stride_in_1x1: bool = False,
    ):
        super().__init__()
        net = torchvision.models.get_model(model, weights=None) if model.startswith(("res", "wide_res")) else None
        rule = "model must be a ResNet of torchvision.models, such as resnet50"
        require(isinstance(net, torchvision.models.ResNet), rule, repr(model))
        expected = next(net.layer4.parameters()).shape[1]
        if in_channels != expected:
            problem = f"{model}'s last stage takes {expected} channels, the backbone gives {in_channels}"
            raise ValueError(f"{problem}; it continues a TorchvisionBackbone with MODEL {model} and LAYERS [layer3]")
        if stride_in_1x1:
            move_strides(net, model)
        self.layer4 = freeze_batch_norm(net.layer4) if frozen_batch_norm else net.layer4
        self.out_features = net.fc.in_features

    def forward(self, pooled):
        """Return a vector per region: (S, C, P, P) -> (S, out_features)."""
        return self.layer4(pooled).mean(dim=(2, 3))
