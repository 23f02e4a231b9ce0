"""torchvision's Faster R-CNN with the weights and settings of a detlite detector.

It is the independent implementation that the tests, train_torchvision.py and speed.py compare detlite with.
"""

import copy

import torch
from torch import nn
from torch.utils._pytree import tree_map
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign, roi_pool

from detlite.errors import UserError
from detlite.modeling.precision import autocast
from detlite.modeling.roi_heads.pooler import RoIPool


class TorchvisionTwin(nn.Module):
    """torchvision's FasterRCNN with the same shape, weights and interface as ours.

    torchvision's fixed choices remain: sigmoid objectness, smooth-L1 with beta 1/9 in both stages, unaligned RoIAlign,
    all anchors train, no dropout, NCHW. The anchors are equal to ours to the bit. In bf16 the backbone and the heads
    run under autocast; boxes and losses stay float32, as ours do.

    Args:
        ours: a FasterRCNN with a VGG, GridAnchorGenerator, MaxIoUMatcher, BalancedSampler, DeltaBoxCoder, RoIAlign or
            RoIPool, and FCBoxHead. Softmax objectness is copied as the difference of its two columns.

    Raises:
        UserError: ours has other parts, or another precision than fp32 or bf16.
    """

    def __init__(self, ours):
        super().__init__()
        precision = getattr(ours, "precision", "fp32")
        if precision not in ("fp32", "bf16"):
            raise UserError(f"MODEL.PRECISION: torchvision's detector needs fp32 or bf16, got {precision}")

        # A detector that lacks one of these attributes, or has several levels, has no counterpart.
        try:
            rpn, roi_heads = ours.rpn, ours.roi_heads
            (stride,) = rpn.anchor_generator.strides
            (cell_anchors,) = rpn.anchor_generator.cell_anchors
            backbone = copy.deepcopy(ours.backbone.features).to(memory_format=torch.contiguous_format)
            fc_dim, fc_in = roi_heads.box_head.fc6.weight.shape
            resolution = roi_heads.pooler.resolution
            (backbone.out_channels,) = ours.backbone.channels.values()
            if rpn.head.conv.out_channels != backbone.out_channels:
                raise ValueError("torchvision's RPN head is as wide as the features")
        except (AttributeError, ValueError):
            raise UserError(
                "torchvision has a counterpart of single-level VGG detectors only, with RPN.HEAD.CONV_DIM as wide as "
                "the features"
            ) from None

        anchor_generator = AnchorGenerator(((1.0,) * len(cell_anchors),), ((1.0,),))
        anchor_generator.cell_anchors = [cell_anchors + rpn.anchor_generator.offset * stride]
        self.flip = ours.channel_order == "BGR"
        self.model = FasterRCNN(
            backbone,
            rpn_anchor_generator=anchor_generator,
            rpn_head=RPNHead(backbone.out_channels, len(cell_anchors)),
            rpn_pre_nms_top_n_train=rpn.pre_nms_top_n(training=True),
            rpn_pre_nms_top_n_test=rpn.pre_nms_top_n(training=False),
            rpn_post_nms_top_n_train=rpn.post_nms_top_n(training=True),
            rpn_post_nms_top_n_test=rpn.post_nms_top_n(training=False),
            rpn_nms_thresh=rpn.nms.iou,
            rpn_fg_iou_thresh=rpn.matcher.foreground_iou,
            rpn_bg_iou_thresh=rpn.matcher.background_iou,
            rpn_batch_size_per_image=rpn.sampler.num_samples,
            rpn_positive_fraction=rpn.sampler.positive_fraction,
            box_roi_pool=MultiScaleRoIAlign(["0"], resolution, getattr(roi_heads.pooler, "sampling_ratio", 0)),
            box_head=TwoMLPHead(fc_in, fc_dim),
            box_predictor=FastRCNNPredictor(fc_dim, ours.num_classes + 1),
            box_fg_iou_thresh=roi_heads.matcher.foreground_iou,
            box_bg_iou_thresh=roi_heads.matcher.background_iou,
            box_batch_size_per_image=roi_heads.sampler.num_samples,
            box_positive_fraction=roi_heads.sampler.positive_fraction,
            bbox_reg_weights=roi_heads.box_coder.weights,
            box_score_thresh=roi_heads.score_threshold,
            box_nms_thresh=roi_heads.nms.iou,
            box_detections_per_img=roi_heads.detections_per_image,
            image_mean=(ours.pixel_mean.flatten() / 255).tolist(),
            image_std=(ours.pixel_std.flatten() / 255).tolist(),
            size_divisible=int(stride),
        )
        if isinstance(roi_heads.pooler, RoIPool):
            self.model.roi_heads.box_roi_pool = _RoIPool(roi_heads.pooler)
        self.model.rpn.min_size = rpn.min_size
        self.model.transform.resize = lambda image, target: (image, target)
        self._copy_heads(rpn.head, roi_heads)
        theirs = self.model.roi_heads
        for module in (self.model.backbone, self.model.rpn.head, theirs.box_head, theirs.box_predictor):
            _set_precision(module, precision)
        self.to(ours.pixel_mean.device)

    @torch.no_grad()
    def _copy_heads(self, head, roi_heads):
        """Copy the heads' weights; the backbone is a copy already."""
        theirs = self.model.rpn.head
        theirs.conv[0][0].load_state_dict(head.conv.state_dict())
        theirs.bbox_pred.load_state_dict(head.deltas.state_dict())
        for name in ("weight", "bias"):
            value = getattr(head.logits, name).unflatten(0, (-1, head.columns))  # [A, columns, ...]
            getattr(theirs.cls_logits, name).copy_(value[:, 0] if head.columns == 1 else value[:, 1] - value[:, 0])
        self.model.roi_heads.box_head.load_state_dict(roi_heads.box_head.state_dict())
        self.model.roi_heads.box_predictor.cls_score.load_state_dict(roi_heads.predictor.logits.state_dict())
        self.model.roi_heads.box_predictor.bbox_pred.load_state_dict(roi_heads.predictor.deltas.state_dict())

    def forward(self, images, targets=None):
        """Return losses or detections; arguments as for :meth:`detlite.modeling.faster_rcnn.FasterRCNN.forward`."""
        device = next(self.parameters()).device
        prepared = []
        for image in images:
            image = image.to(device)
            if image.dtype == torch.uint8:
                image = image.float() / 255
            prepared.append(image.flip(0) if self.flip else image)
        if targets is None:
            return self.model(prepared)
        on_device = []
        for target in targets:  # torchvision reads only these two keys
            on_device.append({"boxes": target["boxes"].to(device), "labels": target["labels"].to(device)})
        return self.model(prepared, on_device)


def _set_precision(module, precision):
    """Run a module in a precision, with float32 outputs."""
    forward = module.forward

    def forward_in_precision(inputs):
        with autocast(precision, next(module.parameters()).device):
            outputs = forward(inputs)
        return tree_map(torch.Tensor.float, outputs)

    module.forward = forward_in_precision


class _RoIPool(nn.Module):
    """torchvision's RoIPool with the arguments of its MultiScaleRoIAlign."""

    def __init__(self, pooler):
        super().__init__()
        self.resolution, self.scale = pooler.resolution, pooler.scale

    def forward(self, features, boxes, image_shapes):
        """Pool {"0": (N, C, h, w)} in boxes [(R_i, 4)]; return (S, C, P, P)."""
        return roi_pool(features["0"], boxes, self.resolution, self.scale)
