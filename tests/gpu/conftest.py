"""Tests of a CUDA GPU. They are skipped where there is none.

DETLITE_GPU_TESTS_DEVICE=cpu runs all of them on the CPU. That shows that their code works, not that a GPU does.
"""

import os

import pytest
import torch

from detlite.config import load_config
from detlite.modeling import build_model
from detlite.modeling.precision import allowing_tf32

DEVICE = os.environ.get("DETLITE_GPU_TESTS_DEVICE", "cuda")


@pytest.fixture(autouse=True, scope="session")
def device():
    """The device under test, as MODEL.DEVICE names it."""
    if DEVICE.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU; DETLITE_GPU_TESTS_DEVICE=cpu runs the tests on the CPU")
    return DEVICE


@pytest.fixture
def strict_float32():
    """No TF32, so that the GPU's numbers differ from the CPU's only in the order of additions.

    A test may change the setting. It is restored afterwards.
    """
    with allowing_tf32(False):
        yield


@pytest.fixture
def build(device):
    """A function: opts of a config -> (config, the model on the device under test), with the same weights each time."""

    def build(opts):
        torch.manual_seed(0)
        cfg = load_config(opts=[*opts, "MODEL.DEVICE", device])
        return cfg, build_model(cfg)

    return build
