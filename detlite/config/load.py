"""Load a config from its layers, lowest first: defaults, _BASE_ files, file, command line."""

import logging
import os
import re
from pathlib import Path

from detlite.config.config import Config
from detlite.config.defaults import Root
from detlite.config.foreign import counterpart
from detlite.config.imports import absolute, import_parts, take_imports
from detlite.config.layers import CommandLineText, Layer
from detlite.config.merge import merge
from detlite.config.renamed import RENAMED
from detlite.config.yaml import Section, parse_yaml
from detlite.errors import CommandLineError, UserError, shortened, suggest
from detlite.files import TEXT_LIMIT, read_text, user_path

logger = logging.getLogger("detlite")

# The top level of each config.yaml that detlite writes. People set some of these, but hardly all.
RECORD_KEYS = set("IMPORTS OUTPUT_DIR SEED MODEL DATASETS TRANSFORMS SOLVER EVALUATION HOOKS".split())
KEY = re.compile(r"[\w.]+$")
# An installed package contains the configs. In a checkout they are next to the package.
PACKAGE = Path(__file__).resolve().parents[1]
OWN_CONFIGS = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
MAX_CHAIN = 50  # files of which each is the _BASE_ of the one before


def load_config(path: str | os.PathLike | None = None, opts: list | tuple = (), imports: list | tuple = ()) -> Config:
    """Load a config file, with changes from a command line, as a frozen :class:`detlite.config.Config`.

    Args:
        path: a YAML file, or a config of detlite such as "detlite:quickstart"; None is the default tree.
        opts: [KEY, VALUE, KEY, VALUE, ...], such as ``["SOLVER.MAX_ITER", "100", "TRANSFORMS.TRAIN.0.SIZE", "240"]``.
            Strings are read as on a command line; other values are used unchanged.
        imports: list of modules or .py files to import in addition to those in IMPORTS.

    Raises:
        UserError: with the key, the file and line or "command line", and the nearest correct choice.
    """
    layers = {}  # by file
    if path is not None:
        _add_file(config_path(path), layers)
    return _merge_layers(list(layers.values()), opts, imports)


def own_configs():
    """Return {name: path} of the configs that detlite contains."""
    paths = sorted(OWN_CONFIGS.rglob("*.yaml"))
    return {path.relative_to(OWN_CONFIGS).with_suffix("").as_posix(): path for path in paths}


def config_path(text):
    """Return the path that a user typed for a config: a file, or ``detlite:NAME`` for one of detlite's configs."""
    if str(text).endswith((".pth", ".pt", ".onnx", ".safetensors")):
        raise UserError(f"{text}: expected a YAML file; weights are given by --weights, or by the key MODEL.WEIGHTS")
    prefix, _, name = str(text).partition("detlite:")
    if prefix or not name:
        return user_path(text)
    configs = own_configs()
    if name not in configs:
        raise UserError(f"{text}: detlite has no config of this name{suggest(name, configs)}")
    return configs[name]


def load_config_text(text, source, opts=(), imports=()):
    """Load the YAML text of a whole config, such as a checkpoint stores, as a frozen tree.

    The text's IMPORTS may be other people's code. They are not run, but replaced by ``imports`` or IMPORTS in ``opts``.
    ``source`` is the text's name in messages; ``opts`` and ``imports`` are the same as for :func:`load_config`.
    """
    layer = Layer(source, parse_yaml(text, source), is_record=True)
    if not isinstance(layer.values, dict):
        raise UserError(f"{source}: a config is a mapping of sections, got {type(layer.values).__name__}")
    modules = [module for module, _ in take_imports(layer)]
    if modules and not imports and "IMPORTS" not in opts[::2]:
        remedy = " ".join(f"--import {module}" for module in modules) + " or your copy of it"
        raise UserError(f"{source}: it uses parts from {', '.join(modules)}; to allow this code to run, add {remedy}")
    return _merge_layers([layer], opts, imports)


def _merge_layers(layers, opts, imports):
    layers.append(Layer("command line", _opts_to_values(opts)))

    # The imports of all layers, (module, where it is named), become the highest layer, without duplicates.
    modules = []
    for layer in layers:
        modules += take_imports(layer)
    modules += [(absolute(str(module), Path.cwd()), "--import") for module in imports]
    import_parts(modules)
    if modules:
        names = list(dict.fromkeys(module for module, _ in modules))
        sources = dict.fromkeys(where for _, where in modules)
        layers.append(Layer(", ".join(sources), {"IMPORTS": names}))

    translated = []
    cfg = merge(Root, layers, translated)
    if translated:
        pairs = ", ".join(f"{key} as {RENAMED[key]}" for _, key in translated)
        logger.info("%s is from an older version; read %s", translated[0][0].source, pairs)
    return cfg


def override(cfg, values, source="override"):
    """Return a copy of a loaded config with some values changed, {dotted key: value}, by the layer ``source``."""
    nested = {}
    for key, value in values.items():
        _set(nested, key, value, source)
    return merge(Root, [*cfg.layers, Layer(source, nested)])


def _add_file(path, layers, named_by=()):
    """Add a file's layer to ``layers``, {file: layer}, after the layers of its bases, each of which is read once.

    ``named_by`` is the chain of files that led to this one.
    """
    file = Path(os.path.realpath(path)) if "\0" not in str(path) else path  # reading reports the null character
    if file in layers:
        if layers[file] is None:  # its bases are being read
            raise UserError(f"{path}: _BASE_ is circular: {' -> '.join(map(str, [*named_by, path]))}")
        return
    if len(named_by) > MAX_CHAIN:
        raise UserError(f"{path}: _BASE_ of {named_by[-1]}: more than {MAX_CHAIN} files in a row")
    purpose = f" (_BASE_ of {named_by[-1]})" if named_by else " (config file)"
    values = parse_yaml(read_text(path, purpose, TEXT_LIMIT), path)
    values = Section() if values is None else values
    is_config = isinstance(values, dict) and (not named_by or all(map(KEY.match, map(str, values))))
    if not is_config:  # it stays unsaid, because other people's _BASE_ may name a secret file, such as /etc/shadow
        raise UserError(f"{path}: a config file is a mapping of sections such as MODEL, but this file is not{purpose}")

    # _BASE_ is not a key of the config: remove it from the layer.
    layer = Layer(str(path), values, file, values.keys() >= RECORD_KEYS)
    where = layer.locate(values, "_BASE_")
    bases = values.pop("_BASE_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{where}: _BASE_: expected a file or a list of files, got {shortened(bases)}")
    layers[file] = None
    for base in bases:
        _add_file(path.parent / config_path(base), layers, (*named_by, path))
    del layers[file]  # its place is after its bases
    layers[file] = layer


def _opts_to_values(opts):
    # A value with unquoted spaces becomes several words, some in a key's place: check the keys before the count.
    opts = list(opts)
    for index in range(0, len(opts), 2):
        key = str(opts[index])
        if not re.fullmatch(r"\w+(\.\w+)*", key):
            hint = "keys look like SOLVER.MAX_ITER, and a value with spaces needs quotes"
            if "=" in key:
                foreign = counterpart(key.split("=")[0])
                hint = "; ".join(filter(None, ["write KEY VALUE, with a space", foreign]))
            after = f" (after {opts[index - 1]!r})" if index else ""
            raise CommandLineError(f"command line: {opts[index]!r}{after} is not a key; {hint}")
    if len(opts) % 2:
        raise CommandLineError(f"command line: the key {opts[-1]} has no value after it")

    values = {}
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        if isinstance(value, (str, Path)):
            value = CommandLineText(value)
        _set(values, str(key), value, "command line")
    return values


class _Keys(dict):
    """A section that dotted keys build up. A section that is set as a whole is a plain dict."""


def _set(values, key, value, source):
    *parents, leaf = key.split(".")
    clash = f"{source}: {key}: it (or a parent section) is set both as a whole and key by key; use one of the two"
    for parent in parents:
        values = values.setdefault(parent, _Keys())
        if not isinstance(values, _Keys):
            raise UserError(clash)
    if isinstance(values.get(leaf), _Keys):
        raise UserError(clash)
    values[leaf] = value
