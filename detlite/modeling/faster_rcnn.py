"""The whole detector: backbone, RPN, RoI heads (Ren et al. 2015)."""

import itertools
import math

from detlite.errors import require
from detlite.modeling.base import DetectorBase, check_images
from detlite.modeling.roi_heads.base import RoIHeadsBase
from detlite.modeling.rpn import RPN
from detlite.modeling.variants import PLAIN, Variant, merge
from detlite.ops.tiles import cut_tiles
from detlite.parts import Slot
from detlite.registry import BACKBONES, META_ARCHITECTURES, ROI_HEADS
from detlite.signature import constructor_arguments


@META_ARCHITECTURES.register()
class FasterRCNN(DetectorBase):
    """A backbone's features, proposals from them, detections in the proposals.

    Args:
        test_flip: whether to detect in the mirrored image, too. The RoI heads' NMS merges the detections.
        test_scales: factors on the size of each image that TRANSFORMS.TEST gives. The RoI heads' NMS merges the
            detections of all sizes.
        test_tile: side in pixels of the tiles of a larger image, in which the objects are detected; the RoI heads' NMS
            merges the detections. 0 detects in the whole image.
        test_tile_overlap: smallest overlap of neighboring tiles, in pixels. Objects up to this size are found once.
    """

    slots = {"BACKBONE": Slot(BACKBONES, "VGG"), "RPN": RPN, "ROI_HEADS": Slot(ROI_HEADS, "StandardRoIHeads")}

    def __init__(
        self,
        backbone: object,
        rpn: object,
        roi_heads: object,
        num_classes: int,
        *,
        test_flip: bool = False,
        test_scales: list[float] = (1.0,),
        test_tile: int = 0,
        test_tile_overlap: int = 128,
        **kwargs: object,
    ):
        super().__init__(backbone, num_classes, **kwargs)
        fits = test_scales and all(0 < scale < math.inf for scale in test_scales)
        require(fits, "test_scales: expected one or more numbers above 0", list(test_scales))
        fits = test_tile >= 0 and 0 <= test_tile_overlap < (test_tile or math.inf)
        require(fits, "need 0 <= test_tile_overlap < test_tile", test_tile_overlap, test_tile)
        self.rpn = rpn
        self.roi_heads = roi_heads
        mirrorings = [False, True] if test_flip else [False]
        self.variants = [Variant(scale, is_mirrored) for scale in test_scales for is_mirrored in mirrorings]
        self.test_tile = test_tile
        self.test_tile_overlap = test_tile_overlap
        if self.has_variants and not isinstance(roi_heads, RoIHeadsBase):
            keys, name = "test_flip, test_scales and test_tile", type(roi_heads).__name__
            raise ValueError(f"{keys} need RoI heads that derive from RoIHeadsBase, got {name}")

    @classmethod
    def from_config(cls, node, num_classes):
        """Build the detector that MODEL describes."""
        backbone = BACKBONES.build(node.BACKBONE)
        channels, strides = list(backbone.channels.values()), list(backbone.strides.values())
        rpn = RPN.from_config(node.RPN, channels, strides)
        roi_heads = ROI_HEADS.build(node.ROI_HEADS, channels, strides, num_classes)
        return cls(backbone, rpn, roi_heads, num_classes, **constructor_arguments(cls, node))

    def losses_from_features(self, features, image_sizes, targets, generators):
        """Return both stages' losses, a dict of scalars. The arguments are explained in :meth:`RPN.forward`."""
        proposals, rpn_losses = self.rpn(features, image_sizes, targets, generators)
        _, roi_losses = self.roi_heads(features, proposals, image_sizes, targets, generators)
        return rpn_losses | roi_losses

    def detections_from_features(self, features, image_sizes):
        """Return each image's detections. The arguments are explained in :meth:`RPN.forward`."""
        proposals, _ = self.rpn(features, image_sizes)
        detections, _ = self.roi_heads(features, proposals, image_sizes)
        return [{**found, "proposals": boxes} for found, boxes in zip(detections, proposals, strict=True)]

    @property
    def has_variants(self):
        """Whether there is test-time augmentation, or images may be cut into tiles."""
        return self.variants != PLAIN or bool(self.test_tile)

    def variants_of(self, image_size):
        """Return the variants of an image of (height, width), for each of its tiles."""
        if not self.test_tile or max(image_size) <= self.test_tile:
            return self.variants
        tiles = cut_tiles(image_size, self.test_tile, self.test_tile_overlap)
        changes = itertools.product(tiles, self.variants)
        return [variant._replace(tile=tile, overlap=self.test_tile_overlap) for tile, variant in changes]

    def detect(self, images, extras=()):
        """Return the detections of a batch in either mode, see :meth:`forward`, merged over the variants."""
        image_sizes = check_images(images)
        variants = list(map(self.variants_of, image_sizes))
        if all(own == PLAIN for own in variants):
            return super().detect(images, extras)

        # A pass has the first variant of each image, then the second, and so on.
        found = [[] for _ in images]  # for each image the detections of its variants
        for turn in itertools.zip_longest(*variants):
            indices = [index for index, variant in enumerate(turn) if variant]
            changed = [turn[index].change(images[index]) for index in indices]
            detected = super().detect(changed, {*extras, "class_scores"})
            for index, image, detections in zip(indices, changed, detected, strict=True):
                turn[index].restore(detections, image.shape[-2:], image_sizes[index])
                found[index].append(detections)
        return [merge(own, self.roi_heads, "class_scores" in extras) for own in found]
