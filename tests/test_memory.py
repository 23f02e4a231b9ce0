"""The peak of the memory that a process has held."""

import sys

import numpy as np
import pytest

from detlite.memory import peak_memory, reset_peak_memory

SIZE = 100 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can restart the peak")
def test_the_peak_rises_with_what_is_held_and_restarts_at_what_is_held_now():
    reset_peak_memory()
    before = peak_memory()
    held = np.ones(SIZE, np.uint8)
    assert peak_memory() >= before + 0.9 * SIZE
    del held
    assert peak_memory() >= before + 0.9 * SIZE
    reset_peak_memory()
    assert peak_memory() < before + 0.5 * SIZE
