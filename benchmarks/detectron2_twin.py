"""detectron2's Faster R-CNN with the weights and settings of a detlite detector, for speed.py."""

import torch
from torch import nn

from detlite.modeling.roi_heads.pooler import RoIPool
from torchvision_twin import TorchvisionTwin


class Detectron2Twin(nn.Module):
    """detectron2's GeneralizedRCNN with the same shape, weights and interface as ours.

    Args:
        ours: a detector that :class:`~torchvision_twin.TorchvisionTwin` accepts.

    Raises:
        UserError: ``ours`` has parts that TorchvisionTwin does not accept.
        ModuleNotFoundError: detectron2 is not installed.
    """

    def __init__(self, ours):
        super().__init__()
        from detectron2.layers import ShapeSpec
        from detectron2.modeling import GeneralizedRCNN
        from detectron2.modeling.anchor_generator import BufferList, DefaultAnchorGenerator
        from detectron2.modeling.box_regression import Box2BoxTransform
        from detectron2.modeling.matcher import Matcher
        from detectron2.modeling.poolers import ROIPooler
        from detectron2.modeling.proposal_generator.rpn import RPN, StandardRPNHead
        from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
        from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
        from detectron2.modeling.roi_heads.roi_heads import StandardROIHeads

        # torchvision's detector with the same weights; detectron2's is made from it.
        reference = TorchvisionTwin(ours).model
        rpn, heads = ours.rpn, ours.roi_heads
        (stride,) = rpn.anchor_generator.strides
        channels = reference.backbone.out_channels
        fc_dim, resolution = heads.box_head.fc6.out_features, heads.pooler.resolution
        anchors = reference.rpn.anchor_generator.cell_anchors

        # The sizes and ratios are placeholders. The anchors that they give are replaced.
        generator = DefaultAnchorGenerator(sizes=[[32.0]], aspect_ratios=[[1.0]], strides=[int(stride)], offset=0.0)
        generator.cell_anchors = BufferList(anchors)
        proposal_generator = RPN(
            in_features=["conv5"],
            head=StandardRPNHead(in_channels=channels, num_anchors=len(anchors[0])),
            anchor_generator=generator,
            anchor_matcher=Matcher(
                [rpn.matcher.background_iou, rpn.matcher.foreground_iou], [0, -1, 1], allow_low_quality_matches=True
            ),
            box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
            batch_size_per_image=rpn.sampler.num_samples,
            positive_fraction=rpn.sampler.positive_fraction,
            pre_nms_topk=(rpn.pre_nms_top_n(training=True), rpn.pre_nms_top_n(training=False)),
            post_nms_topk=(rpn.post_nms_top_n(training=True), rpn.post_nms_top_n(training=False)),
            nms_thresh=rpn.nms.iou,
            min_box_size=rpn.min_size,
            smooth_l1_beta=1 / 9,  # torchvision's fixed value
        )
        if isinstance(heads.pooler, RoIPool):
            sampling_ratio, kind = 0, "ROIPool"
        else:
            sampling_ratio = heads.pooler.sampling_ratio
            kind = "ROIAlignV2" if heads.pooler.aligned else "ROIAlign"
        pooled = ShapeSpec(channels, resolution, resolution)
        roi_heads = StandardROIHeads(
            box_in_features=["conv5"],
            box_pooler=ROIPooler(resolution, [1 / stride], sampling_ratio, kind),
            box_head=FastRCNNConvFCHead(pooled, conv_dims=[], fc_dims=[fc_dim, fc_dim]),
            box_predictor=FastRCNNOutputLayers(
                ShapeSpec(fc_dim),
                box2box_transform=Box2BoxTransform(weights=heads.box_coder.weights),
                num_classes=ours.num_classes,
                test_score_thresh=heads.score_threshold,
                test_nms_thresh=heads.nms.iou,
                test_topk_per_image=heads.detections_per_image,
                smooth_l1_beta=1 / 9,
            ),
            num_classes=ours.num_classes,
            batch_size_per_image=heads.sampler.num_samples,
            positive_fraction=heads.sampler.positive_fraction,
            proposal_matcher=Matcher([heads.matcher.foreground_iou], [0, 1]),
        )
        self.flip = ours.channel_order == "BGR"
        self.model = GeneralizedRCNN(
            backbone=_Backbone(reference.backbone, int(stride)),
            proposal_generator=proposal_generator,
            roi_heads=roi_heads,
            pixel_mean=ours.pixel_mean.flatten().tolist(),
            pixel_std=ours.pixel_std.flatten().tolist(),
        )

        # Copy the weights from torchvision's detector.
        head = proposal_generator.rpn_head
        head.conv.load_state_dict(reference.rpn.head.conv[0][0].state_dict())
        head.objectness_logits.load_state_dict(reference.rpn.head.cls_logits.state_dict())
        head.anchor_deltas.load_state_dict(reference.rpn.head.bbox_pred.state_dict())
        roi_heads.box_head.fc1.load_state_dict(reference.roi_heads.box_head.fc6.state_dict())
        roi_heads.box_head.fc2.load_state_dict(reference.roi_heads.box_head.fc7.state_dict())

        # torchvision's background is class 0. detectron2's is the last class, and has no box deltas.
        predictor = reference.roi_heads.box_predictor
        scores = {name: value.roll(-1, 0) for name, value in predictor.cls_score.state_dict().items()}
        deltas = {name: value[4:] for name, value in predictor.bbox_pred.state_dict().items()}
        roi_heads.box_predictor.cls_score.load_state_dict(scores)
        roi_heads.box_predictor.bbox_pred.load_state_dict(deltas)
        self.to(ours.pixel_mean.device)

    def forward(self, images, targets=None):
        """Return losses or detections; arguments as for :meth:`detlite.modeling.faster_rcnn.FasterRCNN.forward`."""
        from detectron2.structures import Boxes, Instances
        from detectron2.utils.events import EventStorage

        inputs, device = [], self.model.device
        for index, image in enumerate(images):
            image = image.to(device)
            image = image.float() if image.dtype == torch.uint8 else image * 255
            inputs.append({"image": image.flip(0) if self.flip else image})
            if targets:
                inputs[-1]["instances"] = Instances(
                    image.shape[1:],
                    gt_boxes=Boxes(targets[index]["boxes"].to(device).float()),
                    gt_classes=targets[index]["labels"].to(device) - 1,  # counted from 0
                )
        if self.training:
            with EventStorage():
                return self.model(inputs)
        found = [output["instances"] for output in self.model(inputs)]
        return [{"boxes": one.pred_boxes.tensor, "scores": one.scores, "labels": one.pred_classes + 1} for one in found]


class _Backbone(nn.Module):
    """VGG's layers with the interface of detectron2's backbones."""

    def __init__(self, layers, stride):
        super().__init__()
        self.layers = layers
        self.size_divisibility = stride
        self.padding_constraints = {}  # GeneralizedRCNN reads it

    def forward(self, images):
        """Return the features {"conv5": (N, C, h, w)} of images (N, 3, H, W)."""
        return {"conv5": self.layers(images)}
