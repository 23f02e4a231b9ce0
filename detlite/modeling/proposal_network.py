"""The first stage alone (Ren et al. 2015, section 3.1)."""

from detlite.modeling.base import DetectorBase
from detlite.modeling.rpn import RPN
from detlite.parts import Slot
from detlite.registry import BACKBONES, META_ARCHITECTURES
from detlite.signature import constructor_arguments


@META_ARCHITECTURES.register()
class ProposalNetwork(DetectorBase):
    """A backbone and an RPN: where there are objects, whatever they are.

    Its detections are the proposals, with the score of being an object and the label 1, so that with one class it is a
    single-stage detector; with more, DetectionAnalysis gives its proposals' recall.
    """

    slots = {"BACKBONE": Slot(BACKBONES, "VGG"), "RPN": RPN}

    def __init__(self, backbone, rpn, num_classes, **kwargs):
        super().__init__(backbone, num_classes, **kwargs)
        self.rpn = rpn

    @classmethod
    def from_config(cls, node, num_classes):
        """The proposal network that MODEL describes."""
        backbone = BACKBONES.build(node.BACKBONE)
        channels, strides = list(backbone.channels.values()), list(backbone.strides.values())
        return cls(
            backbone, RPN.from_config(node.RPN, channels, strides), num_classes, **constructor_arguments(cls, node)
        )

    def losses_from_features(self, features, image_sizes, targets, generators):
        """The RPN's losses; arguments as for :meth:`detlite.modeling.faster_rcnn.FasterRCNN.losses_from_features`."""
        return self.rpn(features, image_sizes, targets, generators)[1]

    def detections_from_features(self, features, image_sizes):
        """Each image's proposals as detections; arguments as for :meth:`losses_from_features`."""
        detections = self.rpn.detect(features, image_sizes)
        if self.return_proposals:
            return [{**detection, "proposals": detection["boxes"]} for detection in detections]
        return detections
