"""A detector small enough to be built and run in a test, and targets for it."""

import pytest
import torch

from detlite.config import load_config
from detlite.modeling import build_model

NARROW = {
    "MODEL.DEVICE": "cpu",
    "MODEL.CLASSES": ["circle", "square", "triangle"],
    "MODEL.BACKBONE.WIDTH": 0.125,
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RPN.ANCHOR_GENERATOR.SIZES": [32, 64],
    "MODEL.RPN.HEAD.CONV_DIM": 64,
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 100,
    "MODEL.RPN.POST_NMS_TOP_N_TEST": 50,
    "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_HEADS.BOX_HEAD.DROPOUT": 0,
}


@pytest.fixture(autouse=True)
def _same_weights_every_time():
    torch.manual_seed(0)


@pytest.fixture
def narrow_model():
    """A function: a narrow detector, in training mode, with the given {key: value} on top."""

    def build(changes=None, config=None):
        opts = NARROW | (changes or {})
        return build_model(load_config(config, opts=[part for pair in opts.items() for part in pair]))

    return build


@pytest.fixture
def make_target():
    """A function: a target from a list of boxes and one of labels, either may be empty."""

    def make(boxes=(), labels=(), **extra):
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        return {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.int64), **extra}

    return make
