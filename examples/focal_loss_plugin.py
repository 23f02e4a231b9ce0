"""A custom part in a separate file. detlite.testing.check_class_loss(SoftFocalLoss()) verifies its contract.

detlite train --config-file detlite:quickstart --import examples/focal_loss_plugin.py \
    MODEL.ROI_HEADS.CLASS_LOSS.NAME SoftFocalLoss
"""

import torch
from torch.nn import functional as F

from detlite.registry import CLASS_LOSSES


@CLASS_LOSSES.register()
class SoftFocalLoss:
    """Focal loss (Lin et al. 2017) for one or several classes: cross-entropy with less weight on easy boxes.

    Args:
        gamma: how strongly the weight of easy boxes is reduced; 0 gives plain cross-entropy.
    """

    def __init__(self, *, gamma: float = 2.0):
        if gamma < 0:
            raise ValueError(f"gamma must not be negative, got {gamma}")
        self.gamma = gamma

    def __call__(self, logits, labels):
        if logits.shape[1] == 1:  # binary: an RPN with sigmoid objectness
            loss = F.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype), reduction="none")
        else:
            loss = F.cross_entropy(logits, labels, reduction="none")

        # A box is easy if its true class has a high probability, which is exp(-loss).
        weights = (1 - torch.exp(-loss)) ** self.gamma
        return weights * loss
