"""Losses per box, and how the RPN and the RoI heads sum and normalize them.

Letters: R boxes, P positive boxes, C columns of logits.
"""

import math

import torch
from torch.nn import functional as F
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from detlite.errors import require
from detlite.ops.batches import call_on_images
from detlite.registry import BOX_LOSSES, CLASS_LOSSES

LEAST_SIDE = 1e-3  # pixels, of a predicted box in CIoULoss


@BOX_LOSSES.register()
class SmoothL1Loss:
    """x * x / (2 beta) where |x| < beta, |x| - beta / 2 beyond (Girshick 2015, 2.3).

    Args:
        beta: end of the quadratic part; 0 is L1.
    """

    space = "deltas"

    def __init__(self, *, beta: float = 1.0):
        require(0 <= beta < math.inf, "beta must be a finite number, 0 or above", beta)
        self.beta = beta

    def __call__(self, predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of each box, summed over its deltas: (P, 4), (P, 4) -> (P,)."""
        return F.smooth_l1_loss(predicted, target, beta=self.beta, reduction="none").sum(dim=1)


@BOX_LOSSES.register()
class L1Loss:
    """Absolute differences of deltas: smooth L1 without its quadratic part."""

    space = "deltas"

    def __call__(self, predicted, target):
        """Return the loss of each box, summed over its deltas: (P, 4), (P, 4) -> (P,)."""
        return (predicted - target).abs().sum(dim=1)


class _IoULoss:
    """A loss of torchvision that compares boxes in pixels."""

    space = "boxes"

    def __call__(self, predicted, target):
        """Return the loss of each box, at least 0: (P, 4), (P, 4) -> (P,)."""
        return self.function(predicted, target)


@BOX_LOSSES.register()
class GIoULoss(_IoULoss):
    """1 - generalized IoU of boxes in pixels (Rezatofighi et al. 2019)."""

    function = staticmethod(generalized_box_iou_loss)


@BOX_LOSSES.register()
class DIoULoss(_IoULoss):
    """1 - IoU + (center distance / enclosing diagonal) ** 2 (Zheng et al. 2020)."""

    function = staticmethod(distance_box_iou_loss)


@BOX_LOSSES.register()
class CIoULoss(_IoULoss):
    """DIoU's loss plus a term for the aspect ratios' difference (Zheng et al. 2020)."""

    @staticmethod
    def function(predicted, target):
        """Return the loss of each box, at least 0: (P, 4), (P, 4) -> (P,)."""
        # A predicted box may be a point, which has no aspect ratio.
        low, high = predicted[:, :2], predicted[:, 2:]
        predicted = torch.cat([low, torch.maximum(high, low + LEAST_SIDE)], dim=1)
        return complete_box_iou_loss(predicted, target)


class _ClassLoss:
    """A class loss with a factor per class.

    Args:
        class_weights: factor on the loss of each class's boxes, in the order of the classes; background weighs 1. The
            divisor of the losses' sum does not depend on the weights. An empty list weighs all 1.
    """

    def __init__(self, *, class_weights: list[float] = ()):
        fits = all(0 <= weight < math.inf for weight in class_weights)
        require(fits, "class_weights must be finite and at least 0", list(class_weights))
        self.class_weights = list(class_weights)
        self._weight_of_label = torch.tensor([1.0, *class_weights])

    def _weigh(self, losses, labels):
        """Return the weighted losses (R,) of boxes with labels (R,)."""
        if not self.class_weights:
            return losses
        self._weight_of_label = self._weight_of_label.to(losses)  # stays on the device: one copy per run
        return losses * self._weight_of_label[labels]


def check_class_weights(class_loss, num_classes):
    """Raise a ValueError unless a loss with class weights has one per class."""
    if isinstance(class_loss, _ClassLoss) and len(class_loss.class_weights) not in (0, num_classes):
        weights = class_loss.class_weights
        raise ValueError(f"CLASS_LOSS.CLASS_WEIGHTS: expected one per class, {num_classes}, got {weights}")


@CLASS_LOSSES.register()
class CrossEntropyLoss(_ClassLoss):
    """Softmax cross-entropy, or, with one column, sigmoid cross-entropy."""

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of each box: (R, C) logits and (R,) int64 labels -> (R,)."""
        return self._weigh(cross_entropy(logits, labels), labels)


def cross_entropy(logits, labels):
    """Return the cross-entropy (R,) of (R, C) logits and (R,) labels, by a sigmoid if C = 1."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype), reduction="none")
    return F.cross_entropy(logits, labels, reduction="none")


@CLASS_LOSSES.register()
class FocalLoss(_ClassLoss):
    """Cross-entropy in which easy boxes count little (Lin et al. 2017, section 3).

    Its sum is divided by the number of positive boxes (section 4.1), not of sampled ones. It is meant for AllSampler
    and, in the RPN, for a low OBJECT_PRIOR.

    Args:
        alpha: weight of objects; background weighs 1 - alpha.
        gamma: decrease of the loss with the true class's probability; 0 is weighted cross-entropy.
    """

    normalize_by = "positive"

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0, **kwargs: object):
        super().__init__(**kwargs)
        require(0 <= alpha <= 1 and 0 <= gamma < math.inf, "need 0 <= alpha <= 1 and gamma >= 0", alpha, gamma)
        self.alpha = alpha
        self.gamma = gamma

    def __call__(self, logits, labels):
        """Return the loss of each box: (R, C) logits and (R,) int64 labels -> (R,)."""
        loss = cross_entropy(logits, labels)
        alpha = torch.where(labels > 0, self.alpha, 1 - self.alpha)

        # exp(-loss) is the true class's probability. At 0 the power of a gamma below 1 has an infinite gradient.
        error = (1 - torch.exp(-loss)).clamp(min=torch.finfo(loss.dtype).tiny)
        return self._weigh(alpha * error**self.gamma * loss, labels)


def object_scores(logits):
    """Return class scores without the background: (..., C) -> (..., max(C - 1, 1)).

    Scores are in 0 ... 1, and their columns are the classes 1 ... K. One column (C = 1) is a sigmoid, as in
    :class:`CrossEntropyLoss`.

    >>> object_scores(torch.tensor([[0., 0.]])), object_scores(torch.tensor([[0.]]))
    (tensor([[0.5000]]), tensor([[0.5000]]))
    """
    return logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(dim=-1)[..., 1:]


def objectness(logits):
    """Return the logit (R,) of "object" against "background" from logits (R, 1 or 2).

    Its order is the order of the scores. But large scores round to 1 and are equal, and their logits still differ.

    >>> objectness(torch.tensor([[1., 4.]])), objectness(torch.tensor([[3.]]))
    (tensor([3.]), tensor([3.]))
    """
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


def regression_losses(box_loss, box_coder, boxes, deltas, gt_boxes, counts):
    """Return the box loss (P,) of predicted deltas of boxes, computed on deltas or on boxes.

    ``boxes``, ``deltas`` and the boxes' objects ``gt_boxes`` are (P, 4). ``counts`` are the numbers of each image.
    """

    def losses(boxes, deltas, gt_boxes):
        if box_loss.space == "boxes":
            return box_loss(box_coder.decode(boxes, deltas), gt_boxes)
        return box_loss(deltas, box_coder.encode(boxes, gt_boxes))

    return call_on_images(losses, counts, boxes, deltas, gt_boxes)


def reduce_losses(stage, class_losses, box_losses):
    """Reduce the losses of all boxes to a stage's two losses.

    Args:
        stage: the RPN or the RoI heads. Its ``normalize_by`` is the divisor of the box loss: the number of "sampled"
            boxes (the classic), or of "positive" boxes. The class loss may have its own ``normalize_by``.
        class_losses: (S,), of the sampled boxes of all images.
        box_losses: (P,), of the positive boxes among them.

    Returns:
        (class loss, box loss), scalars; 0 with a gradient of 0 where nothing was sampled.
    """
    divisors = {"sampled": max(1, len(class_losses)), "positive": max(1, len(box_losses))}
    class_loss = class_losses.sum() / divisors[getattr(stage.class_loss, "normalize_by", "sampled")]
    return class_loss, stage.box_loss_weight * box_losses.sum() / divisors[stage.normalize_by]
