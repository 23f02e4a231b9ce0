"""Losses per box; RPN and RoI heads sum and normalise them."""

import torch
from torch.nn import functional as F

from detlite.registry import BOX_LOSSES, CLASS_LOSSES


@BOX_LOSSES.register()
class SmoothL1Loss:
    """x * x / (2 beta) where |x| < beta, |x| - beta / 2 beyond (Girshick 2015, section 2.3).

    Args:
        beta: where the quadratic part ends; 0 is L1.
    """

    space = "deltas"

    def __init__(self, *, beta: float = 1.0):
        if beta < 0:
            raise ValueError(f"beta must not be negative, got {beta}")
        self.beta = beta

    def __call__(self, predicted, target):
        """(P, 4) deltas each -> (P,) loss, summed over the four numbers."""
        return F.smooth_l1_loss(predicted, target, beta=self.beta, reduction="none").sum(dim=1)


@CLASS_LOSSES.register()
class CrossEntropyLoss:
    """Softmax cross-entropy; with one column, sigmoid cross-entropy."""

    def __init__(self):
        pass

    def __call__(self, logits, labels):
        """(R, C) logits and (R,) int64 labels -> (R,) loss."""
        if logits.shape[1] == 1:
            return F.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype), reduction="none")
        return F.cross_entropy(logits, labels, reduction="none")


def object_scores(logits):
    """Class scores from logits, as the class losses above mean them: columns are classes 1 ... K, background gone.

    Args:
        logits: (..., C); C = 1 is binary.

    Returns:
        (..., max(C - 1, 1)) in 0 ... 1.

    >>> object_scores(torch.tensor([[0., 0.]])), object_scores(torch.tensor([[0.]]))
    (tensor([[0.5000]]), tensor([[0.5000]]))
    """
    return logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(dim=-1)[..., 1:]


def regression_losses(box_loss, box_coder, boxes, deltas, gt_boxes):
    """The box loss of predictions, in the space where the loss is defined.

    Args:
        box_loss: a part of BOX_LOSSES.
        box_coder: a part of BOX_CODERS.
        boxes: (P, 4) anchors or proposals, in pixels.
        deltas: (P, 4) predictions relative to them.
        gt_boxes: (P, 4), the object of each.

    Returns:
        (P,).
    """
    if box_loss.space == "boxes":
        return box_loss(box_coder.decode(boxes, deltas), gt_boxes)
    return box_loss(deltas, box_coder.encode(boxes, gt_boxes))


def reduce_losses(class_losses, box_losses, *, normalize_by, box_loss_weight):
    """A stage's two losses from its per-box losses.

    Args:
        class_losses: per image (S_i,), of the sampled boxes.
        box_losses: per image (P_i,), of the positive ones among them.
        normalize_by: "sampled" divides the box loss by the number of sampled boxes (the classic), "positive" by that of
            positive ones.
        box_loss_weight: factor on the box loss.

    Returns:
        (class loss, box loss), scalars; 0 with a gradient of 0 where nothing was sampled.
    """
    class_losses, box_losses = torch.cat(class_losses), torch.cat(box_losses)
    num_sampled = max(1, len(class_losses))
    divisor = num_sampled if normalize_by == "sampled" else max(1, len(box_losses))
    return class_losses.sum() / num_sampled, box_loss_weight * box_losses.sum() / divisor
