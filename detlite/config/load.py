"""A config's layers, lowest first: the defaults, the files that ``_BASE_`` names, the file, the command line."""

import re
from pathlib import Path

from detlite.config.defaults import Root
from detlite.config.imports import absolute, import_parts, take_imports
from detlite.config.layers import CommandLineText, Layer
from detlite.config.merge import merge
from detlite.config.yaml import Section, parse_yaml
from detlite.errors import UserError, shortened, suggest


def load_config(path=None, opts=(), imports=()):
    """The frozen config tree of a file, with changes from a command line.

    Args:
        path: a YAML file; None is the default tree.
        opts: [KEY, VALUE, KEY, VALUE, ...] with dotted keys, as from a command line, such as
            ``["SOLVER.MAX_ITER", "100", "TRANSFORMS.TRAIN.0.SIZE", "240"]``; values that are no strings are taken as
            they are.
        imports: list of modules or .py files to import besides those that IMPORTS names.

    Returns:
        :class:`detlite.config.Config`.

    Raises:
        UserError: with the key, the file and line or "command line", and the nearest right choice.
    """
    layers = [] if path is None else _file_layers(path)
    layers = list({layer.file: layer for layer in layers}.values())  # a base that several share counts once, lowest
    return _merge_layers(layers, opts, imports)


def load_config_text(text, source, opts=(), imports=()):
    """As :func:`load_config`, from the text of a whole config, such as a checkpoint carries.

    IMPORTS in the text are someone's code, and are not run: ``imports``, or IMPORTS in ``opts``, take their place.

    Args:
        text: YAML.
        source: what it is called in messages.
        opts: as for :func:`load_config`.
        imports: as for :func:`load_config`.

    Raises:
        UserError: as :func:`load_config`; or the text names IMPORTS and the arguments do not.
    """
    layer = Layer(source, parse_yaml(text, source))
    if not isinstance(layer.values, dict):
        raise UserError(f"{source}: a config is a mapping of sections, got {type(layer.values).__name__}")
    modules = [module for module, _ in take_imports(layer)]
    if modules and not imports and "IMPORTS" not in opts[::2]:
        raise UserError(
            f"{source}: it uses parts from {', '.join(modules)}; that is code, and not run unless you name it: add "
            + " ".join(f"--import {module}" for module in modules)
        )
    return _merge_layers([layer], opts, imports)


def _merge_layers(layers, opts, imports):
    layers.append(Layer("command line", _opts_to_values(opts)))
    modules = [found for layer in layers for found in take_imports(layer)]
    modules += [(absolute(str(module), Path.cwd()), "--import") for module in imports]
    import_parts(modules)
    if modules:
        sources = dict.fromkeys(where for _, where in modules)
        layers.append(Layer(", ".join(sources), {"IMPORTS": list(dict.fromkeys(module for module, _ in modules))}))
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
    values = parse_yaml(_read(path, below), path)
    file = path.resolve()
    if file in [other.resolve() for other in below]:
        raise UserError(f"{path}: _BASE_ goes round in a circle: {' -> '.join(map(str, [*below, path]))}")
    if values is None:
        values = Section()
    if not isinstance(values, dict):
        raise UserError(f"{path}: a config file is a mapping of sections, got {shortened(values)}")
    layer = Layer(str(path), values, file)
    where = layer.locate(values, "_BASE_")
    bases = values.pop("_BASE_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{where}: _BASE_: expected a file or a list of files, got {shortened(bases)}")
    layers = [layer for base in bases for layer in _file_layers(path.parent / base, (*below, path))]
    return [*layers, layer]


def _read(path, below):
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # not UTF-8, or no path at all
        named_by = f" (_BASE_ of {below[-1]})" if below else ""
        reason = getattr(error, "strerror", None) or str(error)
        siblings = []
        if isinstance(error, FileNotFoundError) and path.parent.is_dir():
            siblings = [file.name for file in path.parent.iterdir() if file.suffix in (".yaml", ".yml", ".json")]
        near = suggest(path.name, siblings) if siblings else ""
        raise UserError(f"{path}: cannot read this config file{named_by}: {reason}{near}") from None


def _opts_to_values(opts):
    opts = list(opts)
    for place, key in list(enumerate(opts))[::2]:
        if not re.fullmatch(r"\w+(\.\w+)*", str(key)):
            hint = "keys look like SOLVER.MAX_ITER, and a value with spaces needs quotes"
            hint = "write KEY VALUE, with a space" if "=" in str(key) else hint
            after = f" (after {opts[place - 1]!r})" if place else ""
            raise UserError(f"command line: {key!r}{after} is not a key; {hint}")
    if len(opts) % 2:
        raise UserError(f"command line: the key {opts[-1]} has no value after it")
    values = {}
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        _set(values, str(key), CommandLineText(value) if isinstance(value, (str, Path)) else value, "command line")
    return values


class _Keys(dict):
    """A section made of dotted keys, as opposed to one that is given as a whole."""


def _set(values, key, value, source):
    *parents, leaf = key.split(".")
    clash = f"{source}: {key}: it, or a section that it is in, is given both as a whole and by its keys; choose one"
    for parent in parents:
        values = values.setdefault(parent, _Keys())
        if not isinstance(values, _Keys):
            raise UserError(clash)
    if isinstance(values.get(leaf), _Keys):
        raise UserError(clash)
    values[leaf] = value
