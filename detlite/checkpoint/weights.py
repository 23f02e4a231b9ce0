"""Weights from a file into a model, whatever naming they came with."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from detlite.checkpoint.files import load_checkpoint
from detlite.errors import UserError

# torchvision's classification VGG: its convolutions are the backbone, its first two linear layers fc6 and fc7.
_CLASSIFIER_NAMES = [
    (r"^features\.", "backbone.features."),
    (r"^classifier\.0\.", "roi_heads.box_head.fc6."),
    (r"^classifier\.3\.", "roi_heads.box_head.fc7."),
]


@dataclass
class LoadReport:
    """What became of every name, in the file and in the model."""

    loaded: list = field(default_factory=list)
    mismatched: dict = field(default_factory=dict)  # name -> "shape in the file, shape in the model"
    missing: list = field(default_factory=list)
    ignored: list = field(default_factory=list)

    def __str__(self):
        lines = [f"{len(self.loaded)} tensors loaded"]
        if self.mismatched:
            lines += [f"left as initialized, {name}: {shapes}" for name, shapes in self.mismatched.items()]
        if self.missing:
            lines.append(f"left as initialized, not in the file: {', '.join(self.missing)}")
        if self.ignored:
            lines.append(f"in the file, but not in the model: {', '.join(self.ignored)}")
        return "\n  ".join(lines)


def load_weights(model, path, *, complete=False):
    """Copy the weights of a file into a model, by name and shape.

    Args:
        model: a detector.
        path: .pth, .pt, .npz or .safetensors: detlite's own checkpoints, or torchvision's classification VGG.
        complete: whether every weight of the model must be in the file.

    Returns:
        :class:`LoadReport`.

    Raises:
        UserError: the file cannot be read, nothing in it fits the model, or ``complete`` and something is missing.
    """
    content = load_checkpoint(path)
    state = content.get("model", content) if isinstance(content, dict) else {}
    state = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    own = model.state_dict()
    report, fitting = LoadReport(), {}
    for name, value in state.items():
        own_name = name if name in own else _own_name(name)
        if own_name not in own:
            report.ignored.append(name)
        elif own[own_name].shape != value.shape:
            report.mismatched[own_name] = f"{tuple(value.shape)} in the file, {tuple(own[own_name].shape)} in the model"
        else:
            fitting[own_name] = value
    report.loaded = list(fitting)
    report.missing = [name for name in own if name not in fitting and name not in report.mismatched]
    if not fitting or (complete and (report.missing or report.mismatched)):
        problem = "nothing in it fits the model" if not fitting else "it is not this model's"
        raise UserError(f"{Path(path)}: {problem}:\n  {report}")
    model.load_state_dict(fitting, strict=False)
    return report


def _own_name(name):
    for pattern, replacement in _CLASSIFIER_NAMES:
        name = re.sub(pattern, replacement, name)
    return name
