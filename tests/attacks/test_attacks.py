"""Some hundred attacks; `run.py` makes any number."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

import checkpoints
import configs
import data_folders
import images
import parts
import predictions
from inputs import write_inputs

RUN = Path(__file__).with_name("run.py")


def test_no_attack_breaks_a_rule():
    words = [sys.executable, RUN, "--count", "240", "--jobs", "2"]
    result = subprocess.run(words, capture_output=True, text=True, errors="replace")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "240 cases, 0 failed" in result.stdout


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.mark.parametrize("generator", [configs, checkpoints, data_folders, predictions, images, parts])
def test_a_case_follows_from_its_seed_and_number(generator, good, tmp_path, monkeypatch):
    made = []
    for name in ("first", "second"):
        (tmp_path / name / "work").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name / "work")
        cases = []
        for number in range(5):
            (tmp_path / name / "work" / str(number)).mkdir()
            monkeypatch.chdir(tmp_path / name / "work" / str(number))
            case = generator.make(good, random.Random(f"3 {number}"))
            cases.append((case.name, case.line().replace(str(tmp_path / name), "")))
        made.append((cases, files_below(tmp_path / name)))
    assert made[0] == made[1]
    assert len(set(made[0][0])) > 1


def files_below(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".pth", ".npz"))
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(bytes(folder), b"")
        for path in paths
        if is_finite(path)
    }


def is_finite(path):
    return path.resolve() != Path("/dev/zero")
