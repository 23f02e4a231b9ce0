"""The peak of the memory that a process has held."""

import subprocess
import sys

import pytest

# In a separate process: what other tests freed may stay with this one.
CODE = """
import numpy as np
from detlite.memory import peak_memory, reset_peak_memory

SIZE = 100 * 2**20
reset_peak_memory()
before = peak_memory()
held = np.ones(SIZE, np.uint8)
assert peak_memory() >= before + 0.9 * SIZE
del held
assert peak_memory() >= before + 0.9 * SIZE
reset_peak_memory()
assert peak_memory() < before + 0.5 * SIZE
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can restart the peak")
def test_the_peak_rises_with_what_is_held_and_restarts_at_what_is_held_now():
    process = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
