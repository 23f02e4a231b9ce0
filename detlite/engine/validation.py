"""The training losses on test data."""

import torch
from torch import nn

from detlite import distributed
from detlite.engine.averages import add_pairs, means_of, to_floats
from detlite.evaluation.inference import EvaluationStopped
from detlite.seeding import seeded

# Layers that stay in evaluation mode: they are random in training, or would update their statistics.
ALWAYS_IN_TEST_MODE = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)


@torch.no_grad()
def validation_loss(model, loader, stop=lambda: False):
    """Return the mean training losses over a test loader: {"loss" (the sum), "loss_objectness", ...}.

    Anchors and proposals are matched and sampled as in training, with the same random draws in every call. BatchNorm
    and dropout behave as in evaluation. The model and the random states are not changed.

    Raises:
        EvaluationStopped: ``stop()``, which is called before each batch, returned true.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    sums = {}  # {name: (sum over images, number of images)}
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
                if not images:  # all images of the batch are bad and were left out
                    continue
                losses = to_floats(model(images, targets))
                losses = {"loss": sum(losses.values()), **losses}
                add_pairs(sums, {name: (value * len(images), len(images)) for name, value in losses.items()})
    finally:
        for module, mode in modes.items():
            module.training = mode
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])

    # The means over the images of all processes. Only the main process receives the sums.
    total = {}
    for own in distributed.gather(sums) or ():
        add_pairs(total, own)
    return distributed.from_main(lambda: means_of(total))
