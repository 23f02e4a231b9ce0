import math
from types import SimpleNamespace

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from detlite.errors import UserError
from detlite.modeling.box_coder import DeltaBoxCoder
from detlite.modeling.losses import (
    CrossEntropyLoss,
    FocalLoss,
    SmoothL1Loss,
    object_scores,
    reduce_losses,
    regression_losses,
)
from detlite.registry import BOX_LOSSES, CLASS_LOSSES


def stage(normalize_by, box_loss_weight):
    return SimpleNamespace(normalize_by=normalize_by, box_loss_weight=box_loss_weight, class_loss=CrossEntropyLoss())


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (1.0, 0.5**2 / 2 + (2 - 0.5)),
        (1 / 9, (0.5 - 1 / 18) + (2 - 1 / 18)),
        (0.0, 0.5 + 2),
    ],
)
def test_smooth_l1_is_summed_over_the_four_numbers(beta, expected):
    loss = SmoothL1Loss(beta=beta)(
        torch.tensor([[0.5, 0, 1, 1], [0, 0, 0, 0]]), torch.tensor([[0, 0, 1, 3.0], [0] * 4])
    )
    torch.testing.assert_close(loss, torch.tensor([expected, 0.0]))


def test_a_negative_beta_is_refused():
    with pytest.raises(UserError, match="beta"):
        BOX_LOSSES.build({"NAME": "SmoothL1Loss", "BETA": -1})


def test_cross_entropy_is_minus_the_logarithm_of_the_softmax():
    logits = torch.tensor([[1.0, 3.0, 0.5], [0.0, 0.0, 0.0]])
    expected = [-math.log(math.exp(3) / (math.exp(1) + math.exp(3) + math.exp(0.5))), math.log(3)]
    torch.testing.assert_close(CrossEntropyLoss()(logits, torch.tensor([1, 2])), torch.tensor(expected))


def test_one_column_means_what_two_columns_with_a_zero_mean():
    logits, labels = torch.randn(20, 1), torch.arange(20) % 2
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(CrossEntropyLoss()(logits, labels), CrossEntropyLoss()(two, labels))
    torch.testing.assert_close(object_scores(logits), object_scores(two))


def test_scores_leave_the_background_out():
    torch.testing.assert_close(object_scores(torch.tensor([[0.0, math.log(3), 0]])), torch.tensor([[0.6, 0.2]]))


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_losses_of_nothing_are_empty(columns):
    assert CrossEntropyLoss()(torch.zeros(0, columns), torch.zeros(0, dtype=torch.int64)).shape == (0,)
    assert SmoothL1Loss()(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)
    assert object_scores(torch.zeros(0, columns)).shape == (0, max(1, columns - 1))


def test_the_box_loss_is_divided_by_the_sampled_or_by_the_positive_boxes_of_all_images():
    class_losses, box_losses = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([5.0, 7.0])
    sampled = reduce_losses(stage("sampled", 1.0), class_losses, box_losses)
    positive = reduce_losses(stage("positive", 2.5), class_losses, box_losses)
    assert [loss.item() for loss in sampled] == [10 / 4, 12 / 4]
    assert [loss.item() for loss in positive] == [10 / 4, 2.5 * 12 / 2]


@pytest.mark.parametrize("normalize_by", ["sampled", "positive"])
def test_where_nothing_was_sampled_losses_and_gradients_are_zero(normalize_by):
    logits, deltas = torch.randn(3, 2, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    class_losses = CrossEntropyLoss()(logits[none], none)
    box_losses = SmoothL1Loss()(deltas[none], torch.zeros(0, 4))
    losses = reduce_losses(stage(normalize_by, 1.0), class_losses, box_losses)
    sum(losses).backward()
    assert [loss.item() for loss in losses] == [0, 0]
    assert not logits.grad.any() and not deltas.grad.any()


def test_a_loss_on_boxes_sees_decoded_boxes_and_its_gradient_reaches_the_deltas():
    class GIoULoss:
        space = "boxes"

        def __call__(self, predicted, target):
            return generalized_box_iou_loss(predicted, target)

    boxes, gt_boxes = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 0, 15, 20]])
    deltas = torch.zeros(1, 4, requires_grad=True)
    loss = regression_losses(GIoULoss(), DeltaBoxCoder(), boxes, deltas, gt_boxes, [1])
    torch.testing.assert_close(loss, torch.tensor([1 - 5 / 15]))  # the hull is the union: GIoU is IoU
    loss.sum().backward()
    assert deltas.grad[0, 0] < 0  # to the right is better


def test_a_loss_on_deltas_sees_encoded_boxes():
    boxes, gt_boxes = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 0, 15, 20]])
    coder = DeltaBoxCoder(weights=[10, 10, 5, 5])
    loss = regression_losses(SmoothL1Loss(beta=1.0), coder, boxes, torch.zeros(1, 4), gt_boxes, [1])
    torch.testing.assert_close(loss, torch.tensor([10 * 0.5 - 0.5]))


@pytest.mark.parametrize("gamma", [0, 0.01, 0.5, 0.99, 1, 2, 5])
def test_the_focal_loss_of_a_perfect_prediction_is_zero_and_its_gradient_finite(gamma):
    logits = torch.tensor([[17.0, 0], [200, 0], [16, 0], [0, 0]], requires_grad=True)
    loss = FocalLoss(gamma=gamma)(logits, torch.zeros(4, dtype=torch.int64))
    loss.sum().backward()
    assert loss[1] == 0 and loss.isfinite().all() and logits.grad.isfinite().all()
    torch.testing.assert_close(loss[3].item(), 0.75 * 0.5**gamma * math.log(2))


@pytest.mark.parametrize("loss", [CrossEntropyLoss, FocalLoss])
def test_class_weights_are_factors_on_the_losses_of_their_class_and_background_weighs_one(loss):
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 1, 0])
    factors = torch.tensor([1.0, 2.0, 0.5, 3.0, 2.0, 1.0])
    torch.testing.assert_close(loss(class_weights=[2, 0.5, 3])(logits, labels), factors * loss()(logits, labels))
    one = torch.randn(2, 1)
    expected = torch.tensor([1.0, 5.0]) * loss()(one, torch.tensor([0, 1]))
    torch.testing.assert_close(loss(class_weights=[5])(one, torch.tensor([0, 1])), expected)


@pytest.mark.parametrize(
    ("stage", "heads", "classes"), [("ROI_HEADS", "Standard", 3), ("ROI_HEADS", "Cascade", 3), ("RPN", "Standard", 1)]
)
def test_class_weights_must_be_one_per_class(stage, heads, classes, narrow_model):
    def build(weights):
        loss = {"NAME": "CrossEntropyLoss", "CLASS_WEIGHTS": weights}
        return narrow_model({"MODEL.ROI_HEADS.NAME": f"{heads}RoIHeads", f"MODEL.{stage}.CLASS_LOSS": loss})

    build([2.0] * classes)
    expected = rf"MODEL\.{stage}: .*CLASS_WEIGHTS: expected one per class, {classes}, got \[1.0, 2.0\]"
    with pytest.raises(UserError, match=expected):
        build([1.0, 2.0])


def test_a_negative_class_weight_is_refused():
    with pytest.raises(UserError, match="class_weights must be finite and at least 0"):
        CLASS_LOSSES.build({"NAME": "FocalLoss", "CLASS_WEIGHTS": [1, -1]})
