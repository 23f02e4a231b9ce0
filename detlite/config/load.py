"""A config's layers, lowest first: the defaults, the files that ``_BASE_`` names, the file, the command line."""

import importlib
import importlib.util
import re
import sys
from pathlib import Path

from detlite.config.defaults import Root
from detlite.config.tree import Layer, Text, merge
from detlite.config.yaml import Section, parse_yaml
from detlite.errors import UserError, suggest

# By name, as a plugin is: config stands below the packages that hold the parts.
BUILTIN_PARTS = ("detlite.modeling", "detlite.data", "detlite.evaluation", "detlite.solver", "detlite.engine.hooks")


def load_config(path=None, opts=(), imports=()):
    """The frozen config tree of a file, with changes from a command line.

    Args:
        path: a YAML file; None is the default tree.
        opts: [KEY, VALUE, KEY, VALUE, ...] with dotted keys, as from a command line, such as
            ``["SOLVER.MAX_ITER", "100", "TRANSFORMS.TRAIN.0.SIZE", "240"]``; values that are no strings are taken as
            they are.
        imports: modules or .py files to import besides those that IMPORTS names.

    Returns:
        :class:`detlite.config.Config`.

    Raises:
        UserError: with the key, the file and line or "command line", and the nearest right choice.
    """
    layers = _file_layers(path) if path else []
    layers.append(Layer("command line", _opts_to_values(opts)))
    modules = [module for layer in layers for module in _imports_of(layer)]
    modules += [_absolute(module, Path.cwd()) for module in imports]
    _import_parts(modules)
    layers.append(Layer("imports", {"IMPORTS": list(dict.fromkeys(modules))}))
    return merge(Root, layers)


def override(cfg, values, source="override"):
    """A copy of a loaded config in which some values differ.

    Args:
        cfg: what :func:`load_config` returned.
        values: {dotted key: value}.
        source: who sets them, for messages and for the copy's ``sources``.
    """
    nested = {}
    for key, value in values.items():
        _set(nested, key, value, source)
    return merge(Root, [*cfg.layers, Layer(source, nested)])


def _file_layers(path, below=()):
    """The file's layer on top of those of the files that it names in ``_BASE_``."""
    path = Path(path)
    named_by = f" (_BASE_ of {below[-1]})" if below else ""
    if path.resolve() in [other.resolve() for other in below]:
        raise UserError(f"{path}: _BASE_ goes round in a circle: {' -> '.join(map(str, [*below, path]))}")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        siblings = [file.name for file in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        near = suggest(path.name, siblings) if not path.is_file() and siblings else ""
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"{path}: cannot read this config file{named_by}: {reason}{near}") from None
    if values is None:
        values = Section()
    if not isinstance(values, dict):
        raise UserError(f"{path}: a config file is a mapping of sections, got {type(values).__name__}")
    bases = values.pop("_BASE_", [])
    layers = []
    for base in [bases] if isinstance(bases, str) else bases:
        layers += _file_layers(path.parent / base, (*below, path))
    return [*layers, Layer(str(path), values)]


def _opts_to_values(opts):
    opts = list(opts)
    if len(opts) % 2:
        raise UserError(
            f"command line: KEY VALUE pairs expected, but {opts[-1]!r} has no partner"
            + ("; write a space instead of '='" if "=" in str(opts[-1]) else "")
        )
    values = {}
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        if not re.fullmatch(r"\w+(\.\w+)*", str(key)):
            raise UserError(f"command line: {key!r} is no key; keys look like SOLVER.MAX_ITER")
        _set(values, key, Text(value) if isinstance(value, str) else value, "command line")
    return values


def _set(values, key, value, source):
    *parents, leaf = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"{source}: {key}: {parent} is given as a whole and by its keys; choose one")
    values[leaf] = value


def _imports_of(layer):
    """The layer's IMPORTS, taken out of it: they add up over the layers, unlike any other key."""
    modules = layer.values.get("IMPORTS") or []
    where = layer.locate(layer.values, "IMPORTS")
    if isinstance(modules, Text):
        modules = parse_yaml(modules, where)
        modules = [modules] if isinstance(modules, str) else modules
    if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
        raise UserError(f"{where}: IMPORTS: expected a list of modules or .py files, got {modules!r}")
    folder = Path(layer.source).parent if Path(layer.source).is_file() else Path.cwd()
    return [_absolute(module, folder) for module in modules]


def _absolute(module, folder):
    return str((Path(folder) / module).resolve()) if module.endswith(".py") else module


def _import_parts(modules):
    for module in BUILTIN_PARTS:
        importlib.import_module(module)
    for module in modules:
        name = _findable(Path(module)) if module.endswith(".py") else module
        try:
            importlib.import_module(name)
        except UserError:
            raise
        except ModuleNotFoundError as error:
            if error.name and (name == error.name or name.startswith(error.name + ".")):
                raise UserError(
                    f"IMPORTS: no module called {module!r}; install its package, or name a file: ./{name}.py"
                ) from None
            raise UserError(f"IMPORTS: {module} needs the module {error.name!r}, which is not installed") from error
        except Exception as error:
            raise UserError(f"IMPORTS: {module} fails to import: {type(error).__name__}: {error}") from error


def _findable(file):
    """The name under which a .py file can be imported, here and, as they inherit sys.path, in child processes."""
    if not file.is_file():
        raise UserError(
            f"IMPORTS: no such file: {file}{suggest(file.name, (f.name for f in file.parent.glob('*.py')))}"
        )
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
        importlib.invalidate_caches()
    spec = importlib.util.find_spec(file.stem)
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != file:
        raise UserError(
            f"IMPORTS: {file} cannot be imported as {file.stem!r}: that name belongs to "
            f"{spec.origin if spec else 'nothing importable'}; rename the file"
        )
    return file.stem
