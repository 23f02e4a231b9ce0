"""The first stage alone (Ren et al. 2015, section 3.1)."""

import torch

from detlite.modeling.base import DetectorBase
from detlite.modeling.rpn import RPN
from detlite.parts import Slot
from detlite.registry import BACKBONES, META_ARCHITECTURES
from detlite.signature import constructor_arguments


@META_ARCHITECTURES.register()
class ProposalNetwork(DetectorBase):
    """A backbone and an RPN: finds objects without telling their classes apart.

    Its detections are the proposals, with their objectness as score and label 1. So with one class it is a single-stage
    detector; with more, DetectionAnalysis gives its proposals' recall.
    """

    slots = {"BACKBONE": Slot(BACKBONES, "VGG"), "RPN": RPN}

    def __init__(self, backbone, rpn, num_classes, **kwargs):
        super().__init__(backbone, num_classes, **kwargs)
        self.rpn = rpn

    @classmethod
    def from_config(cls, node, num_classes):
        """Build the proposal network that MODEL describes."""
        backbone = BACKBONES.build(node.BACKBONE)
        rpn = RPN.from_config(node.RPN, list(backbone.channels.values()), list(backbone.strides.values()))
        return cls(backbone, rpn, num_classes, **constructor_arguments(cls, node))

    def losses_from_features(self, features, image_sizes, targets, generators):
        """Return the RPN's losses, a dict of scalars."""
        return self.rpn(features, image_sizes, targets, generators)[1]

    def detections_from_features(self, features, image_sizes):
        """Return each image's proposals as detections."""
        detections = []
        for boxes, scores in self.rpn.propose(*self.rpn.predict(features), image_sizes):
            labels = torch.ones_like(scores, dtype=torch.int64)
            detections.append({"boxes": boxes, "scores": scores, "labels": labels, "proposals": boxes})
        return detections
