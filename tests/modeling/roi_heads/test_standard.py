import math

import pytest
import torch
from torch import nn

from detlite.config import load_config
from detlite.registry import ROI_HEADS

KEYS = {"MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": 16, "MODEL.ROI_HEADS.BOX_HEAD.DROPOUT": 0}
NUM_CLASSES = 3


def build_roi_heads(changes=None, num_classes=NUM_CLASSES):
    opts = KEYS | (changes or {})
    node = load_config(opts=[part for pair in opts.items() for part in pair]).MODEL.ROI_HEADS
    return ROI_HEADS.build(node, [4], [16], num_classes)


def say(roi_heads, logits, deltas):
    """Make the predictor say the same of every region."""
    with torch.no_grad():
        roi_heads.predictor.logits.weight.zero_()
        roi_heads.predictor.deltas.weight.zero_()
        roi_heads.predictor.logits.bias.copy_(torch.tensor(logits))
        roi_heads.predictor.deltas.bias.copy_(torch.tensor(deltas).flatten())


def test_positives_come_first_and_keep_their_objects(make_target):
    roi_heads = build_roi_heads({"MODEL.ROI_HEADS.APPEND_GT": False})
    target = make_target([[0, 0, 40, 40], [50, 50, 90, 98]], [2, 3])
    proposals = torch.tensor([[60.0, 0, 90, 30], [50, 52, 90, 98], [2, 0, 40, 40], [0, 60, 30, 90]])
    (boxes,), (labels,), (gt_boxes,) = roi_heads.sample([proposals], [target], None)
    assert boxes.tolist() == proposals[[1, 2, 0, 3]].tolist()
    assert labels.tolist() == [3, 2, 0, 0]
    assert gt_boxes.tolist() == target["boxes"][[1, 0]].tolist()


def test_objects_join_the_proposals_in_training(make_target):
    target = make_target([[0, 0, 40, 40], [50, 50, 90, 98]], [2, 3])
    (boxes,), (labels,), (gt_boxes,) = build_roi_heads().sample([torch.zeros(0, 4)], [target], None)
    assert boxes.tolist() == gt_boxes.tolist() == target["boxes"].tolist() and labels.tolist() == [2, 3]
    alone = build_roi_heads({"MODEL.ROI_HEADS.APPEND_GT": False})
    (boxes,), (labels,), (gt_boxes,) = alone.sample([torch.zeros(0, 4)], [target], None)
    assert len(boxes) == len(labels) == len(gt_boxes) == 0


def test_background_overlaps_an_object_less_than_half(make_target):
    target, low = make_target([[0, 0, 100, 100]], [1]), [0.0, 0, 100, 49.9]
    proposals = torch.tensor([[0.0, 0, 100, 50], low, [200, 200, 300, 300]])
    plain = build_roi_heads({"MODEL.ROI_HEADS.APPEND_GT": False})
    assert plain.sample([proposals], [target], None)[1][0].tolist() == [1, 0, 0]
    near = build_roi_heads({"MODEL.ROI_HEADS.APPEND_GT": False, "MODEL.ROI_HEADS.MATCHER.BACKGROUND_IOU_LOW": 0.1})
    boxes, labels, _ = near.sample([proposals], [target], None)
    assert labels[0].tolist() == [1, 0] and boxes[0][1].tolist() == pytest.approx(low)


@pytest.mark.parametrize(
    ("outputs", "own"), [("classes and background", [0, 0, 1, 0]), ("classes", [0, 1, 0]), ("agnostic", [1])]
)
def test_losses_are_arithmetic_and_regress_the_true_classs_box(outputs, own, make_target):
    """Label 2 of three; the box that belongs to it says the right deltas, the others nonsense."""
    roi_heads = build_roi_heads(
        {"MODEL.ROI_HEADS.BOX_OUTPUTS": outputs, "MODEL.ROI_HEADS.APPEND_GT": False, "MODEL.ROI_HEADS.BOX_LOSS.BETA": 0}
    )
    target = make_target([[4, 0, 44, 40]], [2])
    proposals = torch.tensor([[0.0, 0, 40, 40], [50, 50, 90, 98], [100, 0, 140, 40]])
    right = [10 * 4 / 40 + 0.5, 0.0, 0.0, 0.0]  # off by a half
    say(roi_heads, [0.0, 1.0, 2.0, 0.0], [right if it else [9.0, 9, 9, 9] for it in own])
    _, losses = roi_heads([torch.randn(1, 4, 8, 10)], [proposals], [(128, 160)], [target])
    partition = math.exp(0) + math.exp(1) + math.exp(2) + math.exp(0)
    expected = -(math.log(math.exp(2) / partition) + 2 * math.log(1 / partition)) / 3
    assert losses["loss_classifier"].item() == pytest.approx(expected, rel=1e-5)
    assert losses["loss_box_reg"].item() == pytest.approx(0.5 / 3, rel=1e-4)


@pytest.mark.parametrize(("outputs", "boxes"), [("classes and background", 4), ("classes", 3), ("agnostic", 1)])
def test_detections_take_the_box_of_their_class(outputs, boxes):
    roi_heads = build_roi_heads({"MODEL.ROI_HEADS.BOX_OUTPUTS": outputs, "MODEL.ROI_HEADS.SCORE_THRESHOLD": 0.2})
    # Box b is (b + 1) half widths to the right of its proposal.
    deltas = [[10 * 0.5 * (index + 1), 0.0, 0, 0] for index in range(boxes)]
    say(roi_heads, [0.0, 3.0, 0.0, 2.9], deltas)
    proposals = torch.tensor([[0.0, 0, 20, 30]])
    (detections,), losses = roi_heads([torch.randn(1, 4, 8, 10)], [proposals], [(128, 160)])
    assert losses == {}
    right = {4: {1: 20, 3: 40}, 3: {1: 10, 3: 30}, 1: {1: 10, 3: 10}}[boxes]  # which box is label 1's, label 3's
    assert detections["labels"].tolist() == [1, 3]
    torch.testing.assert_close(
        detections["boxes"], torch.tensor([[right[label], 0.0, right[label] + 20, 30] for label in (1, 3)])
    )
    scores = [math.exp(logit) / (2 + math.exp(3) + math.exp(2.9)) for logit in (3, 2.9)]
    torch.testing.assert_close(detections["scores"], torch.tensor(scores))


def test_one_class_is_label_one(make_target):
    for outputs in ("classes and background", "classes", "agnostic"):
        roi_heads = build_roi_heads({"MODEL.ROI_HEADS.BOX_OUTPUTS": outputs}, num_classes=1)
        features, proposals = [torch.randn(1, 4, 8, 10)], [torch.tensor([[0.0, 0, 40, 40]])]
        (detections,), _ = roi_heads(features, proposals, [(128, 160)])
        assert detections["labels"].tolist() == [1]
        _, losses = roi_heads(features, proposals, [(128, 160)], [make_target([[0, 0, 40, 40]], [1])])
        assert all(loss.isfinite() for loss in losses.values())


def test_the_number_of_proposals_may_differ_between_images():
    roi_heads = build_roi_heads({"MODEL.ROI_HEADS.SCORE_THRESHOLD": 0.0})
    box = torch.tensor([[0.0, 0, 40, 40]])
    proposals = [torch.zeros(0, 4), box, torch.cat([box, box + 50])]
    detections, _ = roi_heads([torch.randn(3, 4, 8, 10)], proposals, [(128, 160)] * 3)
    assert [len(image["boxes"]) for image in detections] == [0, 3, 6]


@pytest.mark.parametrize("append_gt", [True, False])
def test_images_without_objects_or_proposals_have_finite_losses_and_gradients(append_gt, make_target):
    roi_heads = build_roi_heads({"MODEL.ROI_HEADS.APPEND_GT": append_gt})
    features = torch.randn(2, 4, 8, 10, requires_grad=True)
    box = torch.tensor([[0.0, 0, 40, 40]])
    for proposals in ([torch.zeros(0, 4)] * 2, [box, torch.zeros(0, 4)]):
        roi_heads.zero_grad()
        _, losses = roi_heads([features], proposals, [(128, 160)] * 2, [make_target(), make_target()])
        assert losses["loss_box_reg"].item() == 0
        sum(losses.values()).backward()
        for name, parameter in roi_heads.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_predictors_start_normal_with_their_own_deviations():
    roi_heads = build_roi_heads({"MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": 512}, num_classes=20)
    assert abs(roi_heads.predictor.logits.weight.std().item() / 0.01 - 1) < 0.05
    assert abs(roi_heads.predictor.deltas.weight.std().item() / 0.001 - 1) < 0.05
    assert isinstance(roi_heads.predictor.logits, nn.Linear) and not roi_heads.predictor.logits.bias.any()


def test_a_subclass_that_overrides_detect_is_called_for_each_image():
    roi_heads = build_roi_heads({"MODEL.ROI_HEADS.SCORE_THRESHOLD": 0.0}).eval()
    box = torch.tensor([[0.0, 0, 40, 40]])
    features, proposals = [torch.randn(3, 4, 8, 10)], [torch.zeros(0, 4), box, torch.cat([box, box + 50])]
    sizes = [(128, 160), (100, 160), (128, 90)]
    expected, _ = roi_heads(features, proposals, sizes)

    calls = []

    class Own(type(roi_heads)):
        def detect(self, proposals, logits, deltas, image_size):
            calls.append((len(proposals), len(logits), len(deltas), image_size))
            return super().detect(proposals, logits, deltas, image_size)

    roi_heads.__class__ = Own
    found, _ = roi_heads(features, proposals, sizes)
    assert calls == [(count, count, count, size) for count, size in zip((0, 1, 2), sizes, strict=True)]
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_region_in_an_ignored_one_is_not_sampled(make_target):
    target = make_target([[50, 50, 90, 98]], [2], ignored=torch.tensor([[0.0, 0, 40, 40]]))
    proposals = torch.tensor([[0.0, 0, 40, 60], [0, 0, 40, 90], [20, 20, 30, 30], [52, 50, 90, 98]])
    (boxes,), (labels,), _ = build_roi_heads({"MODEL.ROI_HEADS.APPEND_GT": False}).sample([proposals], [target], None)
    assert boxes.tolist() == proposals[[3, 1]].tolist() and labels.tolist() == [2, 0]
