"""The loss on data that is not trained on."""

import functools

import torch
from torch import nn

from detlite import distributed
from detlite.engine.averages import add_pairs, means_of, to_floats
from detlite.evaluation.inference import EvaluationStopped
from detlite.seeding import seeded

# What behaves differently in training, and must not here: it draws, or changes statistics.
ALWAYS_IN_TEST_MODE = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)


@torch.no_grad()
def validation_loss(model, loader, stop=lambda: False):
    """The training losses over a test loader; weights, statistics, modes and random states stay as they are.

    Anchors and proposals are matched and sampled as in training, with draws that are the same each time; BatchNorm and
    dropout are as in test.

    Args:
        model: a detector with torchvision's face.
        loader: yields (images, targets), this process's share.
        stop: () -> whether to give up before the next batch.

    Returns:
        {"loss", "loss_objectness", ...}: means over the images; "loss" is the sum of the others.

    Raises:
        EvaluationStopped: ``stop`` said so.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    sums = {}
    distributed.share_buffers(model)
    try:
        model.train()
        for module in model.modules():
            if isinstance(module, ALWAYS_IN_TEST_MODE):
                module.eval()
        with seeded(0):
            for images, targets in loader:
                if stop():
                    raise EvaluationStopped
                if not images:  # all of them bad, and left out
                    continue
                losses = to_floats(model(images, targets))
                losses = {"loss": sum(losses.values()), **losses}
                add_pairs(sums, {name: (value * len(images), len(images)) for name, value in losses.items()})
    finally:
        for module, mode in modes.items():
            module.training = mode
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return distributed.from_main(functools.partial(_means, distributed.gather(sums)))


def _means(sums):
    """The means over the images of all processes; None, in all but the main one, for None."""
    total = {}
    for own in sums or ():
        add_pairs(total, own)
    return means_of(total)
