"""Fixtures: a small detector, the log, and an empty download cache."""

import logging

import pytest
import torch

from detlite.config import load_config
from detlite.modeling import build_model

NARROW = {
    "MODEL.DEVICE": "cpu",
    "MODEL.CLASSES": ["circle", "square", "triangle"],
    "MODEL.BACKBONE.WIDTH": 0.0625,  # 4, 8, 16, 32, 32 channels
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RPN.HEAD.CONV_DIM": 16,
    "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": 8,
}


@pytest.fixture
def narrow_config():
    """A function that returns a narrow detector's config with the given {key: value} on top; "__" means a dot.

    A section that is given as a whole takes the place of the narrow detector's keys in it.
    """

    def config(**changes):
        changes = {key.replace("__", "."): value for key, value in changes.items()}
        whole = tuple(f"{key}." for key in changes)
        opts = {key: value for key, value in NARROW.items() if not key.startswith(whole or "?")} | changes
        return load_config(opts=[part for pair in opts.items() for part in pair])

    return config


@pytest.fixture
def narrow_model(narrow_config):
    """A function that returns the narrow detector, in evaluation mode."""

    def model(**changes):
        return build_model(narrow_config(**changes)).eval()

    return model


@pytest.fixture
def saved(tmp_path):
    """A function that saves content under a name, and returns the file's path."""

    def save(content, name="weights.pth"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def log():
    """The list of (level, text) that detlite logs."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append((record.levelname, record.getMessage()))
    logger = logging.getLogger("detlite")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """torch's folder of downloads, empty at first."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"
