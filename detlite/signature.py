"""The keys that a class lets a config set, from its signature and its docstring.

The model passes a part its positional parameters. The keyword-only parameters are the keys of the part's config node,
in capitals. A part that ends its signature in ``**kwargs`` also accepts the keys of the class that it extends.
"""

import functools
import inspect
import math
import re
import sys
import types
import typing
from dataclasses import dataclass

from detlite.errors import UserError, prefix_errors, shortened, suggest

UNIONS = (typing.Union, types.UnionType)
TYPE_NAMES = {float: "a number", int: "a whole number", bool: "true or false", str: "a string", types.NoneType: "null"}


@dataclass(frozen=True)
class Key:
    """A keyword-only parameter of ``owner`` as a config key, its default converted."""

    parameter: str
    annotation: object
    default: object
    doc: str
    owner: object


@functools.cache
def config_keys(part):
    """Return the keys that a config may set on a part, which is a class or a function that returns the part.

    They are {name in capitals: :class:`Key`}, in the order of the signature. A keyword-only parameter that cannot be a
    key, by its annotation, default or name, is a UserError.
    """
    if not isinstance(part, type):
        return _signature_keys(part, part)

    # The part's class comes first: its key replaces a key of the same name in a class above.
    keys = {}
    for owner in part.__mro__:
        if "__init__" not in vars(owner) or owner is object:
            continue
        for name, key in _signature_keys(owner, owner.__init__).items():
            keys.setdefault(name, key)
        parameters = inspect.signature(owner.__init__).parameters.values()
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            break
    return keys


def _signature_keys(owner, function):
    docs = _argument_docs(owner) | _argument_docs(function)
    hints = typing.get_type_hints(function)
    keys = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        try:
            default = _convert_default(parameter, hints, keys)
        except UserError as error:
            where = f"{where_defined(owner)}: {owner.__name__}"
            raise UserError(f"{where}: the keyword-only parameter {name} is a config key {error}") from None
        keys[name.upper()] = Key(name, hints[name], default, docs.get(name, ""), owner)
    return keys


def _convert_default(parameter, hints, taken):
    """Return a parameter's default, converted. Raise a UserError if it is no key."""
    name = parameter.name
    if parameter.default is inspect.Parameter.empty or name not in hints:
        raise UserError(f"and so needs an annotation and a default, such as `{name}: float = 0.5`")
    if not _can_hold(hints[name]):
        allowed = "bool, int, float, str, None, Literal[...], list[...], dict[...] and unions of these"
        raise UserError(f"and so cannot be annotated with {hints[name]}; use {allowed}")
    if name.upper() in {"NAME", *taken}:
        raise UserError(f"by the name {name.upper()}, which is taken; rename the parameter")
    with prefix_errors("whose default does not fit its annotation: "):
        return convert(parameter.default, hints[name])


def _can_hold(annotation):
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (list, dict) or origin in UNIONS:
        return all(map(_can_hold, arguments))
    return origin is typing.Literal or annotation in list(TYPE_NAMES)  # by equality: it may be unhashable


def _argument_docs(documented):
    """Read the Args section of a docstring: {argument: text}."""
    _, *section = re.split(r"(?m)^\s*Args:\s*$", inspect.getdoc(documented) or "", maxsplit=1)
    docs = {}
    name = indent = None
    for line in "".join(section).split("\n"):
        if not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        if depth == 0:  # the next section
            break

        # The first line sets the depth of arguments' names; deeper lines continue a text, or begin it.
        indent = indent or depth
        start = re.match(r"\s+(\w+)(?: \([^)]*\))?:(?: (.*)|$)", line)
        if start and depth == indent:
            name = start[1]
            docs[name] = start[2] or ""
        elif name:
            docs[name] = f"{docs[name]} {line.strip()}".lstrip()
    return docs


def first_sentence(part):
    """Return the first paragraph of a part's own docstring on one line, or ""."""
    return " ".join(inspect.cleandoc(part.__doc__ or "").split("\n\n")[0].split())


def where_defined(part):
    """Return ``file:line`` of a class or function, or its module without a file."""
    try:
        return f"{inspect.getsourcefile(part)}:{inspect.getsourcelines(part)[1]}"
    except (OSError, TypeError):
        return f"module {part.__module__}"


def constructor_arguments(part, node):
    """Select a part's keyword arguments from its config node, without NAME and slots."""
    return {spec.parameter: node[key] for key, spec in config_keys(part).items() if key in node}


def accepts(part, parameter):
    """Check whether a part can be called with a parameter of that name."""
    return parameter in inspect.signature(part).parameters


def batch_method(part, name):
    """Return a part's method for whole batches, or None if it has none.

    A subclass that overrides ``__call__`` or ``forward`` alone does not inherit the method, which does something else.
    """
    for cls in type(part).__mro__:
        if name in vars(cls):
            return getattr(part, name)
        if "__call__" in vars(cls) or "forward" in vars(cls):
            return None
    return None


def convert(value, annotation):
    """Convert a config's value to the type that its annotation asks for, or raise a UserError.

    An int becomes a float, and a float without fraction, such as 1e3, an int.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)

    # Composed types: a union takes the first type that fits; a list is copied.
    if origin in UNIONS:
        for option in arguments:
            try:
                return convert(value, option)
            except UserError:
                continue
    if origin is typing.Literal and any(value == choice and type(value) is type(choice) for choice in arguments):
        return value
    if origin is list and isinstance(value, (list, tuple)):
        entries = []
        for index, item in enumerate(value):
            with prefix_errors(f"entry {index}: "):
                entries.append(convert(item, arguments[0]))
        return entries
    if origin is dict and isinstance(value, dict):
        return {convert(key, arguments[0]): convert(item, arguments[1]) for key, item in value.items()}

    # Plain types: float excludes nan, and whole numbers that are too large for it.
    if annotation is float and is_number and (abs(value) <= sys.float_info.max or abs(value) == math.inf):
        return float(value)
    if annotation is int and is_number and value == value // 1 and abs(value) < 2**63:  # torch's integers
        return int(value)
    if annotation in (bool, str, types.NoneType) and isinstance(value, annotation):
        return value
    raise _misfit(value, annotation)


def _misfit(value, annotation):
    origin, hint = typing.get_origin(annotation), ""
    if origin is typing.Literal and isinstance(value, str):
        return UserError(f"{shortened(value)} is not one of its values{suggest(value, typing.get_args(annotation))}")
    if annotation is str and isinstance(value, (int, float)):
        hint = "; put it in quotes"
    elif annotation is int and isinstance(value, (int, float)) and abs(value) >= 2**63:
        hint = ", which has more than 64 bits"
    elif origin is list and not isinstance(value, (dict, types.NoneType)) and 0 < len(str(value)) < 60:
        hint = f"; a list is written [{value}]"
    return UserError(f"expected {describe_type(annotation)}, got {shortened(value)}{hint}")


def describe_type(annotation):
    """Describe a type in a user's words, such as "a list of (a number) or null"."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in UNIONS:
        return " or ".join(map(describe_type, arguments))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is list:
        return f"a list of ({describe_type(arguments[0])})"
    if origin is dict:
        return f"a mapping from {describe_type(arguments[0])} to {describe_type(arguments[1])}"
    return TYPE_NAMES[annotation]
