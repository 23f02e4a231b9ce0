"""A checkpoint that takes no training."""

import pytest
import torch

from detlite.checkpoint import save_checkpoint
from detlite.config import load_config
from detlite.modeling import build_model


@pytest.fixture
def checkpoint(tiny_opts, tmp_path):
    """A function: (changes of the config) -> the path of an untrained tiny detector's checkpoint.

    A section that is given as a whole takes the place of the tiny detector's keys in it.
    """

    def save(**changes):
        torch.manual_seed(0)
        classes = ["circle", "square", "triangle"]
        opts = tiny_opts(MODEL__CLASSES=classes, MODEL__RPN__MIN_SIZE=1, **changes)
        whole = tuple(f"{key.replace('__', '.')}." for key in changes)
        if changes.get("MODEL__NAME") == "ProposalNetwork":
            whole = (*whole, "MODEL.ROI_HEADS.")
        pairs = [pair for pair in zip(opts[::2], opts[1::2], strict=True) if not pair[0].startswith(whole or "?")]
        cfg = load_config(opts=[word for pair in pairs for word in pair])
        content = {"model": build_model(cfg).state_dict(), "config": cfg.dump(), "classes": classes}
        save_checkpoint(content, tmp_path / "tiny.pth")
        return tmp_path / "tiny.pth"

    return save
