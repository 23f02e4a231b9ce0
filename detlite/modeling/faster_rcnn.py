"""The whole detector: backbone, RPN, RoI heads (Ren et al. 2015)."""

from detlite.modeling.base import DetectorBase
from detlite.modeling.rpn import RPN
from detlite.parts import Slot
from detlite.registry import BACKBONES, META_ARCHITECTURES, ROI_HEADS
from detlite.signature import constructor_arguments


@META_ARCHITECTURES.register()
class FasterRCNN(DetectorBase):
    """A backbone's features, proposals from them, detections in the proposals."""

    slots = {"BACKBONE": Slot(BACKBONES, "VGG"), "RPN": RPN, "ROI_HEADS": Slot(ROI_HEADS, "StandardRoIHeads")}

    def __init__(self, backbone, rpn, roi_heads, num_classes, **kwargs):
        super().__init__(backbone, num_classes, **kwargs)
        self.rpn = rpn
        self.roi_heads = roi_heads

    @classmethod
    def from_config(cls, node, num_classes):
        """Build the detector that MODEL describes."""
        backbone = BACKBONES.build(node.BACKBONE)
        channels, strides = list(backbone.channels.values()), list(backbone.strides.values())
        rpn = RPN.from_config(node.RPN, channels, strides)
        roi_heads = ROI_HEADS.build(node.ROI_HEADS, channels, strides, num_classes)
        return cls(backbone, rpn, roi_heads, num_classes, **constructor_arguments(cls, node))

    def losses_from_features(self, features, image_sizes, targets, generators):
        """Return both stages' losses, a dict of scalars.

        Args:
            features: list over levels of (N, C, h, w).
            image_sizes: (height, width) of each image, without padding.
            targets: for each image a dict with "boxes" (M, 4) and "labels" (M,).
            generators: for each image a torch.Generator for sampling, or None.
        """
        proposals, rpn_losses = self.rpn(features, image_sizes, targets, generators)
        _, roi_losses = self.roi_heads(features, proposals, image_sizes, targets, generators)
        return rpn_losses | roi_losses

    def detections_from_features(self, features, image_sizes):
        """Return each image's detections, see :meth:`losses_from_features`."""
        proposals, _ = self.rpn(features, image_sizes)
        detections, _ = self.roi_heads(features, proposals, image_sizes)
        return [{**found, "proposals": boxes} for found, boxes in zip(detections, proposals, strict=True)]
