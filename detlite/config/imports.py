"""Modules that register custom parts: entry points, IMPORTS and --import."""

import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import traceback
from pathlib import Path

from detlite.config.layers import read_section
from detlite.errors import UserError, nearest_path, shortened
from detlite.files import user_path

# Only the names: config is below the packages that hold the parts, and must not import them itself.
BUILTIN_PARTS = "detlite.modeling detlite.data detlite.evaluation detlite.solver detlite.engine.tensorboard".split()
PLUGINS = "detlite.plugins"  # the group of entry points with which an installed package adds parts


def take_imports(layer):
    """Remove a layer's IMPORTS, which add up over the layers, and return them as [(module or absolute file, place)]."""
    if "IMPORTS" not in layer.values:
        return []
    where = layer.locate(layer.values, "IMPORTS")
    modules = read_section(layer.values.pop("IMPORTS"), f"{where}: IMPORTS")
    if isinstance(modules, str) and not layer.file:
        modules = [modules]
    if not isinstance(modules, (list, tuple)) or not all(isinstance(module, str) for module in modules):
        expected = "a list of modules or .py files such as [./my_parts.py]"
        raise UserError(f"{where}: IMPORTS: expected {expected}, got {shortened(modules)}")
    folder = layer.file.parent if layer.file else Path.cwd()
    return [(absolute(module, folder), where) for module in modules]


def absolute(module, folder):
    """Return a .py file's absolute path, or a module's name unchanged."""
    return os.path.abspath(folder / user_path(module)) if module.endswith(".py") else module


def import_parts(modules):
    """Import the built-in parts, installed plugins, and modules from `take_imports`."""
    for module in BUILTIN_PARTS:
        importlib.import_module(module)
    for plugin in importlib.metadata.entry_points(group=PLUGINS):
        try:
            plugin.load()
        except (Exception, SystemExit) as error:
            problem = f"the installed package {plugin.dist.name} has parts for detlite that fail to import"
            entry = f"its entry point {plugin.name} = {plugin.value}, group {PLUGINS}"
            raise UserError(f"{problem} ({entry}): {_describe(error)}; fix or uninstall it") from error
    for module, where in modules:
        try:
            _import(module)
        except UserError as error:
            key = "" if where == "--import" else "IMPORTS: "
            raise UserError(f"{where}: {key}{error}") from error.__cause__


def _describe(error):
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _import(module):
    name = _importable_name(module) if module.endswith(".py") else module
    if name == module and not re.fullmatch(r"\w+(\.\w+)*", name):
        raise UserError(f"{module!r} is not a module's name; a file needs its ending, such as ./my_parts.py")
    try:
        importlib.import_module(name)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        # Either this module is missing, or one that it imports.
        if isinstance(error, ModuleNotFoundError) and error.name:
            if f"{name}.".startswith(f"{error.name}."):
                remedy = f"install its package, or name a file, such as ./{name}.py"
                raise UserError(f"no module is called {module!r}; {remedy}") from None
            raise UserError(f"{module} needs the module {error.name!r}, which is not installed") from error

        # The innermost line in the file itself; deeper frames belong to libraries.
        at = module
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename == module:
                at = f"{module}:{frame.lineno}"
        raise UserError(f"{at} fails to import: {_describe(error)}") from error


def _importable_name(file):
    """Return a .py file's module, after adding its folder to sys.path."""
    folder, name = os.path.split(file)
    if not os.path.isfile(file):
        raise UserError(f"no such file: {file}{nearest_path(file)}")
    if folder not in sys.path:  # child processes inherit it
        sys.path.append(folder)
    importlib.invalidate_caches()  # the file may be newer than Python's list of the folder

    # Another module of that name would be imported instead.
    name = name.removesuffix(".py")
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # the name has a dot, or is __main__
        spec = None
    if spec is None or spec.origin is None or os.path.realpath(spec.origin) != os.path.realpath(file):
        owner = f"that name belongs to {spec.origin}" if spec else "that is not a module's name"
        raise UserError(f"{file} cannot be imported as {name!r}: {owner}; rename the file")
    return name
