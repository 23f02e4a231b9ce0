"""Modules that register parts of a user's own: installed packages' entry points, IMPORTS, and --import."""

import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import traceback
from pathlib import Path

from detlite.config.layers import read_section
from detlite.errors import UserError, shortened, suggest

# By name, as a plugin is: config stands below the packages that hold the parts.
BUILTIN_PARTS = (
    "detlite.modeling",
    "detlite.data",
    "detlite.evaluation",
    "detlite.solver",
    "detlite.engine.tensorboard",
)
PLUGINS = "detlite.plugins"  # the group of entry points by which an installed package brings its parts


def take_imports(layer):
    """A layer's IMPORTS, taken out of it: they add up over the layers, unlike any other key.

    Returns:
        list of (module or absolute path of a .py file, where the layer names it).
    """
    if "IMPORTS" not in layer.values:
        return []
    where = layer.locate(layer.values, "IMPORTS")
    modules = read_section(layer.values.pop("IMPORTS"), f"{where}: IMPORTS")
    if isinstance(modules, str) and not layer.file:
        modules = [modules]
    if not isinstance(modules, (list, tuple)) or not all(isinstance(module, str) for module in modules):
        raise UserError(
            f"{where}: IMPORTS: expected a list of modules or .py files such as [./my_parts.py], "
            f"got {shortened(modules)}"
        )
    folder = layer.file.parent if layer.file else Path.cwd()
    return [(absolute(module, folder), where) for module in modules]


def absolute(module, folder):
    """A module's name as it is; a .py file's path, which is relative to ``folder``, in full."""
    return os.path.abspath(folder / module) if module.endswith(".py") else module


def import_parts(modules):
    """Import the built-in parts, installed plugins and ``modules``, a list as :func:`take_imports` returns it."""
    for module in BUILTIN_PARTS:
        importlib.import_module(module)
    for plugin in importlib.metadata.entry_points(group=PLUGINS):
        _load(plugin)
    for module, where in modules:
        try:
            _import(module)
        except UserError as error:
            key = "" if where == "--import" else "IMPORTS: "
            raise UserError(f"{where}: {key}{error}") from error.__cause__


def _load(plugin):
    try:
        plugin.load()
    except (Exception, SystemExit) as error:
        problem = error if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(
            f"the installed package {plugin.dist.name} has parts for detlite that fail to import (its entry point "
            f"{plugin.name} = {plugin.value}, group {PLUGINS}): {problem}; mend or uninstall it"
        ) from error


def _import(module):
    name = _findable(module) if module.endswith(".py") else module
    if name == module and not re.fullmatch(r"\w+(\.\w+)*", name):
        raise UserError(f"{module!r} is no module's name; a file is named with its ending, such as ./my_parts.py")
    try:
        importlib.import_module(name)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name:
            if f"{name}.".startswith(f"{error.name}."):
                raise UserError(
                    f"no module is called {module!r}; install its package, or name a file, such as ./{name}.py"
                ) from None
            raise UserError(f"{module} needs the module {error.name!r}, which is not installed") from error
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == module]
        at = f"{module}:{lines[-1]}" if lines else module
        raise UserError(f"{at} fails to import: {type(error).__name__}: {error}") from error


def _findable(file):
    """The name under which a .py file can be imported, here and, as they inherit sys.path, in child processes."""
    folder, name = os.path.split(file)
    if not os.path.isfile(file):
        siblings = sorted(Path(folder).glob("*.py")) if os.path.isdir(folder) else []
        raise UserError(f"no such file: {file}{suggest(name, (f.name for f in siblings)) if siblings else ''}")
    if folder not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()
    name = name.removesuffix(".py")
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a dot in it; __main__
        spec = None
    if spec is None or spec.origin is None or os.path.realpath(spec.origin) != os.path.realpath(file):
        owner = f"that name belongs to {spec.origin}" if spec else "that is no module's name"
        raise UserError(f"{file} cannot be imported as {name!r}: {owner}; rename the file")
    return name
