"""timm's nets as backbones."""

from detlite.errors import suggest
from detlite.modeling.backbone.torchvision_backbone import CutNet
from detlite.registry import BACKBONES


@BACKBONES.register()
class TimmBackbone(CutNet):
    """Any net of timm (``pip install timm``) that has feature levels: ResNet, ConvNeXt, ViT and many more.

    Weights are random. A file of the net's weights, as timm saves them, fits as MODEL.WEIGHTS.

    Args:
        model: a name of timm.list_models(), such as convnext_tiny.
        levels: numbers of the net's feature levels, finest first; -1 is the last. A ViT has one per block.
    """

    def __init__(self, *, model: str = "resnet50", levels: list[int] = (-2,), **kwargs):
        try:
            import timm
        except ImportError as error:
            raise ValueError("timm is not installed: pip install timm") from error
        names = timm.list_models()
        if model.partition(".")[0] not in names:
            raise ValueError(f"timm has no model called {model!r}{suggest(model, names)}")
        options = {"pretrained": False, "features_only": True, "feature_cls": "getter", "out_indices": list(levels)}
        try:
            try:
                net = timm.create_model(model, dynamic_img_size=True, **options)  # a ViT takes one size otherwise
            except TypeError:
                net = timm.create_model(model, **options)
        except (AttributeError, AssertionError, IndexError, RuntimeError, TypeError) as error:
            raise ValueError(f"{model} has no feature levels {list(levels)}: {error}") from error
        super().__init__(net, f"{model} with levels {list(levels)}", **kwargs)

    def forward(self, images):
        """Return {level: (N, C, H / stride, W / stride)}."""
        return dict(zip(self.body.feature_info.module_name(), self.body(images), strict=True))
