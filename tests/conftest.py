"""What many tests share: a detector small enough to train in a second, through the same code as a large one."""

import signal
import sys

import pytest
import torch

from detlite.config import load_config
from detlite.registry import registries

TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.DEPTH": 11,
    "MODEL.BACKBONE.WIDTH": 0.0625,
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RPN.HEAD.CONV_DIM": 16,
    "MODEL.RPN.ANCHOR_GENERATOR.SIZES": [16, 32],
    "MODEL.RPN.INSIDE_ONLY": False,
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 50,
    "MODEL.RPN.POST_NMS_TOP_N_TEST": 20,
    "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_HEADS.SAMPLER.NUM_SAMPLES": 16,
    "DATASETS.TRAIN": [{"NAME": "ShapesDataset", "IMAGE_SIZE": 64, "NUM_IMAGES": 20}],
    "DATASETS.TEST": {"NAME": "ShapesDataset", "IMAGE_SIZE": 64, "NUM_IMAGES": 5},
    "DATASETS.NUM_WORKERS": 0,
    "TRANSFORMS.TRAIN": [{"NAME": "RandomHorizontalFlip"}],
    "TRANSFORMS.TEST": [],
    "SOLVER.BATCH_SIZE": 2,
    "SOLVER.MAX_ITER": 6,
    "SOLVER.LOG_PERIOD": 1,
    "EVALUATION.PICTURES": 2,
}


@pytest.fixture
def tiny_opts(tmp_path):
    """A function: {key: value} -> opts of a tiny detector on 64 px shapes, writing to the test's own folder."""

    def opts(**changes):
        values = {**TINY, "OUTPUT_DIR": str(tmp_path / "output")}
        values |= {key.replace("__", "."): value for key, value in changes.items()}
        return [word for pair in values.items() for word in pair]

    return opts


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small tensors are faster on one thread, and the machine may be shared."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def ctrl_c():
    """Ctrl-C interrupts tests and what they start, even where a shell that runs them in the background ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def parts_of_its_own():
    """Parts that a test registers, and the modules that hold them, are gone after it: no other test meets them."""
    load_config()  # imports the built-in parts
    modules = set(sys.modules)
    before = {registry: dict(registry._obj_map) for registry in registries().values()}
    yield
    for registry, parts in before.items():
        for name in set(registry) - set(parts):
            if registry.get(name).__module__ not in modules:
                sys.modules.pop(registry.get(name).__module__, None)
        registry._obj_map = parts
