"""The settings of a command's process."""

import os
import subprocess
import sys

import pytest

from detlite.cli.runtime import wait_briefly


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)]
)
def test_threads_wait_briefly_unless_the_user_has_said_how(monkeypatch, given, expected):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # so that monkeypatch restores it
    monkeypatch.delenv("GOMP_SPINCOUNT")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    wait_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_it_is_set_before_torch_is_loaded_which_reads_it_once():
    code = "\n".join(
        (
            "import sys",
            "from detlite import cli",
            "cli.wait_briefly = lambda: print('torch' in sys.modules)",
            "cli.main(['--list'], 'explain')",
            "print('torch' in sys.modules)",
        )
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
    assert (said[0], said[-2]) == ("False", "True")
