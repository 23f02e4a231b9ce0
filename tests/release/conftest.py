"""What the tests of a release share: the built distributions, and environments in which one of them is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_command(*command, folder=ROOT):
    """Run a command outside the checkout's import path, and return its output; a failure shows the output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def run():
    return run_command


@pytest.fixture(scope="session")
def distributions(run, tmp_path_factory):
    """The wheel and the sdist, {kind: path}. The wheel is built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


@pytest.fixture(scope="session", params=["wheel", "sdist"])
def installed(request, run, distributions, tmp_path_factory):
    """(bin folder of a fresh environment with a distribution in it, empty folder)."""
    environment = tmp_path_factory.mktemp(request.param)
    run(sys.executable, "-m", "venv", environment)
    run(environment / "bin/python", "-m", "pip", "install", "--quiet", f"{distributions[request.param]}[export]")
    return environment / "bin", tmp_path_factory.mktemp("empty")
