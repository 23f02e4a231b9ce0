"""Parts that an installed package adds with its entry point, in a process that has it on its path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detlite.config import load_config
from detlite.config.yaml import format_yaml
from detlite.errors import UserError

ROOT = Path(__file__).parents[2]
PART = """
import os

from detlite.modeling.matcher import TopKMatcher
from detlite.registry import MATCHERS

print("imported by", os.getpid())


@MATCHERS.register()
class PluginMatcher(TopKMatcher):
    pass
"""
SPAWN = """
import multiprocessing
from detlite.config import load_config
from detlite.registry import MATCHERS

OPTS = ("MODEL.RPN.MATCHER.NAME", "PluginMatcher")

def build(cfg):  # of a config that another process has loaded
    return MATCHERS.build(cfg.MODEL.RPN.MATCHER)

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        cfg = pool.apply(load_config, (None, OPTS))
        matcher = pool.apply(build, (cfg,))
    assert type(matcher) is MATCHERS.get("PluginMatcher"), matcher
    print("spawned", cfg.MODEL.RPN.MATCHER.NAME)
"""


@pytest.fixture
def install(tmp_path):
    """A function that installs a package called own-detector: (entry point's value, code of its module own_parts)."""

    def install(value, code=PART):
        folder = tmp_path / "site"
        about = folder / "own_detector-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: own-detector\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[detlite.plugins]\nparts = {value}\n")
        (folder / "own_parts.py").write_text(code)

    return install


@pytest.fixture
def run(tmp_path):
    """A function that runs Python with the installed package on its path: (arguments) -> finished process."""

    def run(*words):
        return subprocess.run(
            [sys.executable, *map(str, words)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'site'}"},
        )

    return run


def test_an_installed_package_s_part_trains_without_being_imported_by_name(install, run, tiny_opts, tmp_path):
    install("own_parts")
    opts = tiny_opts(MODEL__RPN__MATCHER__NAME="PluginMatcher", SOLVER__MAX_ITER=2, EVALUATION__PICTURES=0)
    words = [word if isinstance(word, str) else format_yaml(word) for word in opts]
    process = run(ROOT / "tools" / "train_net.py", *words)
    assert process.returncode == 0, process.stderr
    assert "NAME: PluginMatcher" in (tmp_path / "output" / "config.yaml").read_text()


def test_an_installed_package_s_part_is_there_in_a_spawned_process(install, run, tmp_path):
    install("own_parts")
    (tmp_path / "spawn.py").write_text(SPAWN)
    process = run(tmp_path / "spawn.py")
    assert "spawned PluginMatcher" in process.stdout, process.stderr
    assert len(set(line for line in process.stdout.splitlines() if line.startswith("imported by"))) == 2


@pytest.mark.parametrize(
    ("value", "code", "problem"),
    [
        ("own_parts", "1 / 0", "ZeroDivisionError: division by zero"),
        ("own_parts", "import sys; sys.exit(3)", "SystemExit: 3"),
        ("no_such_module", "", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("own_parts:register", "", "AttributeError: module 'own_parts' has no attribute 'register'"),
        (
            "own_parts",
            PART.replace("PluginMatcher(TopKMatcher)", "ATSSMatcher"),
            "MATCHER ATSSMatcher is defined twice",
        ),
    ],
)
def test_a_broken_plugin_is_named_with_its_package(install, monkeypatch, tmp_path, value, code, problem):
    install(value, code)
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(UserError) as caught:
        load_config()
    sys.modules.pop("own_parts", None)
    assert str(caught.value).startswith(
        "the installed package own-detector has parts for detlite that fail to import (its entry point "
        f"parts = {value}, group detlite.plugins): {problem}"
    )
    assert str(caught.value).endswith("; fix or uninstall it")
