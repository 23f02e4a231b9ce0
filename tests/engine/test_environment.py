"""The log's first lines say what ran where, and every message has its level."""

import platform
import re
import subprocess
import sys

import torch
import torchvision

from detlite import __version__
from detlite.config import load_config
from detlite.engine import environment
from detlite.engine.train import train


def test_the_log_begins_with_versions_device_commit_and_command_line(tiny_opts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/detlite", "train", "a b.yaml", "SEED", "1\nforged"])
    monkeypatch.setattr(environment, "find_commit", lambda: "1a2b3c4")
    train(load_config(opts=tiny_opts(SOLVER__MAX_ITER=1, MODEL__BACKBONE__FREEZE_AT=1)))
    first, command, *rest = (tmp_path / "output/log.txt").read_text().splitlines()
    libraries = f"torch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}"
    start = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} "
    machine = f"{platform.system()} {platform.release()} {platform.machine()}"
    expected = f"INFO detlite {__version__} (commit 1a2b3c4), {libraries}, {machine}, device cpu"
    assert re.fullmatch(start + re.escape(expected), first)
    assert command.endswith(" INFO command: detlite train 'a b.yaml' SEED '1")
    assert rest[0] == "  forged'"
    levels = re.findall(start + r"(\w+) ", (tmp_path / "output/log.txt").read_text())
    assert set(levels) == {"INFO", "WARNING"}  # layers are frozen without weights

    # The console marks warnings alone.
    assert re.search(r"^warning: MODEL.WEIGHTS is empty", capsys.readouterr().out, re.M)


def test_the_commit_is_the_clones(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True, text=True)

    monkeypatch.setattr(environment, "CLONE", tmp_path)
    assert environment.find_commit() is None
    git("init")
    git("commit", "--allow-empty", "-m", "first")
    commit = git("rev-parse", "HEAD").stdout[:7]
    assert environment.find_commit() == commit
    git("pack-refs", "--all")
    assert environment.find_commit() == commit
    git("checkout", "--detach")
    assert environment.find_commit() == commit
