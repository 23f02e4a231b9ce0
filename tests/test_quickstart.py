"""`make quickstart` ends with the pictures, the report and the next commands."""

import importlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A Python that records its command lines.
PYTHON = '#!/bin/sh\necho "ran $*"\n'


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_the_quick_start_ends_with_its_results_and_three_commands_that_there_are(tmp_path):
    for name in ("Makefile", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text(PYTHON)
    (tmp_path / ".venv/bin/python").chmod(0o755)
    (tmp_path / ".venv/installed").touch()
    # `make test PYTHON=...` hands its variables down.
    handed_down = ("MAKEFLAGS", "MAKEOVERRIDES", "PYTHON", "TORCH")
    given = {name: value for name, value in os.environ.items() if name not in handed_down}
    command = ["make", "-s", "quickstart"]
    process = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, check=True)
    lines = process.stdout.splitlines()
    runs = [shlex.split(line)[1:] for line in lines if line.startswith("ran ")]
    assert [script for script, *_ in runs] == ["tools/train_net.py", "tools/test_net.py"]
    assert "Pictures of ground truth and detections: output/quickstart/pictures" in lines
    assert "Report on the mistakes: output/quickstart/report.html" in lines

    # The commands can be parsed, those of the two scripts included.
    commands = [line.split() for line in lines if line.startswith("  detlite ")]
    assert [command for _, command, *_ in commands] == ["visualize", "init", "train"]
    for name, arguments in [("train", runs[0][1:]), ("test", runs[1][1:]), *[(c[1], c[2:]) for c in commands]]:
        importlib.import_module(f"detlite.cli.{name}").parser(name).parse_intermixed_args(arguments)
