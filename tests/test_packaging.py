"""The package's metadata: one version, and dependencies that anyone may use."""

import ast
import importlib.metadata
from pathlib import Path

from packaging.requirements import Requirement

import detlite

PACKAGE = Path(detlite.__file__).parent


def licenses(name, extras, found):
    """Add the licenses of a distribution and of its installed requirements to ``found``, {name: text}."""
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:  # an extra that is not installed
        return found
    fields = distribution.metadata
    classifiers = [line for line in fields.get_all("Classifier", []) if line.startswith("License")]
    title = (fields.get("License") or "").partition("\n")[0]  # some packages put the licenses of all their files here
    found[name] = " ".join([fields.get("License-Expression") or title, *classifiers])
    for line in distribution.requires or []:
        requirement = Requirement(line)
        environments = [{"extra": extra} for extra in extras or ("",)]
        applies = requirement.marker is None or any(map(requirement.marker.evaluate, environments))
        if applies and requirement.name not in found:
            licenses(requirement.name, requirement.extras, found)
    return found


def test_no_dependency_has_the_affero_license():
    found = licenses("detlite", ("export", "timm", "tensorboard", "video", "test"), {})
    assert {"detlite", "torch", "pillow", "fvcore", "iopath", "onnx"} <= set(found)
    assert not [name for name, text in found.items() if "AGPL" in text.upper() or "AFFERO" in text.upper()]
    assert [name for name, text in found.items() if "Apache" in text and name == "detlite"]  # the field was read


def test_fvcore_is_imported_for_the_config_node_and_the_registry_alone():
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fvcore"):
                found.add(file.relative_to(PACKAGE).as_posix())
    assert found == {"config/config.py", "parts.py"}


def test_the_version_is_written_once():
    assert importlib.metadata.version("detlite") == detlite.__version__
    assert detlite.__version__ not in (PACKAGE.parent / "setup.py").read_text(encoding="utf-8")
