"""Imports go down only: the layers of the package, checked in the import statements themselves."""

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import detlite
from detlite.registry import HOOKS

PACKAGE = Path(detlite.__file__).parent
ROWS = (  # lowest first; the rooms of a row do not import each other
    ("errors", "console", "signals", "seeding", "memory", "ops"),
    ("signature", "description", "parameters", "files", "distributed"),
    ("parts", "contracts", "logs", "writing"),
    ("registry", "guard", "drawing"),
    ("config",),
    ("modeling", "data", "solver", "evaluation", "checkpoint"),
    ("agreement",),
    ("prediction", "inspection"),
    ("engine",),
    ("preparation", "testing"),
    ("cli",),
)
FLOORS = {room: floor for floor, row in enumerate(ROWS) for room in row}


def module_name(file):
    parts = ("detlite", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports(module):
    """The modules of detlite that a module imports, wherever in its file."""
    found = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module if SOURCES[module].name == "__init__.py" else module.rpartition(".")[0]
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [base])]
                )
            if base == "detlite" and node.names[0].name == "__version__":  # there before any module of detlite
                continue
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in SOURCES else base for alias in node.names}
    return {name for name in found if name.split(".")[0] == "detlite"}


GRAPH = {module: imports(module) for module in SOURCES}


def room(module):
    return module.split(".")[1] if "." in module else ""


def test_the_walk_sees_imports_at_the_head_and_in_functions():
    assert "detlite.errors" in GRAPH["detlite.parts"]
    assert "detlite.engine.train" in GRAPH["detlite.cli.train"]  # inside a function


def test_every_module_has_its_floor():
    assert {room(module) for module in SOURCES} - {""} == set(FLOORS)


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_a_module_imports_from_lower_floors_and_its_own_room_only(module):
    for imported in GRAPH[module]:
        assert room(module) and room(imported), f"{module} imports {imported}"
        same_room = room(imported) == room(module)
        below = FLOORS[room(imported)] < FLOORS[room(module)]
        assert same_room or below, f"{module} imports {imported}"


def test_the_diagram_of_the_architecture_shows_these_layers():
    text = (PACKAGE.parent / "docs/architecture.md").read_text(encoding="utf-8")
    arrows = [line.split(" --> ") for line in text.splitlines() if " --> " in line]
    layers = [set(upper.strip().split(" & ")) for upper, _ in arrows] + [set(arrows[-1][1].split(" & "))]
    assert layers == [set(row) for row in reversed(ROWS)]
    for (_, lower), (upper, _) in zip(arrows, arrows[1:], strict=False):
        assert lower == upper.strip()


def test_no_imports_go_round_in_a_circle():
    list(graphlib.TopologicalSorter(GRAPH).static_order())


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [("prediction", "engine"), ("inspection", "engine"), ("data", "preparation"), ("prediction", "preparation")],
)
def test_no_module_of_a_folder_reaches_another_folder_even_through_others(folder, forbidden):
    reached, waiting = set(), [module for module in SOURCES if room(module) == folder]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += GRAPH[module]
    assert not [module for module in reached if room(module) == forbidden]


def test_the_package_holds_no_detector_of_another_library():
    for module, file in SOURCES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert not name.startswith(("detectron2", "mmdet", "torchvision.models.detection")), module


DETECT = """
import sys
import numpy as np
from detlite import Detector

Detector.from_checkpoint(sys.argv[1], device="cpu")(np.zeros((64, 64, 3), np.uint8))
print(*(module for module in sys.modules if module.startswith("detlite.")))
"""


def test_a_detector_loads_of_the_engine_only_its_registered_hooks(checkpoint):
    command = [sys.executable, "-c", DETECT, str(checkpoint())]
    process = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    loaded = set(process.stdout.split())
    engine = {module for module in loaded if module.startswith("detlite.engine")}
    hooks = {HOOKS.get(name).__module__ for name in HOOKS}
    assert "detlite.prediction.detector" in loaded and hooks <= engine
    assert engine - hooks <= {"detlite.engine"}
    assert not [module for module in loaded if "report" in module and not module.endswith("load_report")]
    assert not {module for module in loaded if room(module) in ("inspection", "preparation", "testing", "cli")}


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("detlite", {"torch", "numpy", "yaml"}),
        ("detlite.cli", {"torch", "numpy", "yaml"}),
        ("detlite.cli.train", {"torch", "numpy", "yaml"}),
        ("detlite.registry", {"torch", "numpy"}),
        ("detlite.config", {"torch", "numpy", "detlite.modeling", "detlite.data", "detlite.engine"}),
    ],
)
def test_importing_it_brings_in_nothing_heavy(module, forbidden):
    code = f"import sys, {module}; print(*sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    loaded = set(process.stdout.split())
    assert module in loaded
    assert not forbidden & loaded


def test_a_script_beside_the_clone_finds_the_package_and_not_the_clone(tmp_path):
    (tmp_path / "detlite").mkdir()
    code = [sys.executable, "-c", "import detlite; print(detlite.__file__)"]
    assert subprocess.run(code, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.endswith("init__.py\n")


def test_every_module_imports_and_check_and_train_run_on_a_system_without_posix(tiny_opts):
    """tests/elsewhere/sitecustomize.py removes signals, fork, /proc, glibc and more. The release tests run the rest."""
    code = """if True:
        import importlib, pkgutil, sys
        import detlite.cli
        for module in pkgutil.walk_packages(detlite.__path__, "detlite."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        words = [word if isinstance(word, str) else repr(word) for word in eval(sys.argv[1])]
        assert detlite.cli.main(["check", *words]) == 0
        assert detlite.cli.main(["train", *words]) == 0
    """
    opts = tiny_opts(SOLVER__MAX_ITER=2, EVALUATION__PICTURES=0)
    folders = [str(Path(__file__).with_name("elsewhere")), str(PACKAGE.parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    command = [sys.executable, "-W", "ignore", "-c", code, repr(opts)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "memory: unknown on this system; disk space: " in run.stdout and "trained to step 2" in run.stdout
