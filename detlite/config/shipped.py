"""The configs that detlite contains, such as ``detlite:quickstart``."""

from pathlib import Path

from detlite.errors import UserError, suggest
from detlite.files import user_path

PREFIX = "detlite:"
PACKAGE = Path(__file__).resolve().parents[1]

# An installed package contains the configs. In a checkout they are next to the package.
FOLDER = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"


def shipped_configs():
    """Return {name: path} of detlite's configs."""
    paths = sorted(FOLDER.rglob("*.yaml"))
    return {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in paths}


def config_path(text):
    """Return the path that a user typed for a config: a file, or ``detlite:NAME`` for one of detlite's configs."""
    if not str(text).startswith(PREFIX):
        return user_path(text)
    name = str(text).removeprefix(PREFIX).removesuffix(".yaml")
    configs = shipped_configs()
    if name not in configs:
        raise UserError(f"{text}: detlite has no config of this name{suggest(name, configs)}")
    return configs[name]
