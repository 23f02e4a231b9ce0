"""What a class lets a config set: read from its signature, its annotations and its docstring.

A part's positional parameters are what the model hands it; its keyword-only parameters are the
keys of its config node, in capitals. A part that ends its signature in ``**kwargs`` also takes the keys of
the class that it extends.
"""

import functools
import inspect
import math
import re
import types
import typing
from dataclasses import dataclass

from detlite.errors import UserError, suggest


@dataclass(frozen=True)
class Key:
    """One key of a config node: a keyword-only parameter of ``owner``."""

    annotation: object
    default: object
    doc: str
    owner: object


@functools.cache
def config_keys(part):
    """The keys that a config may set on a part.

    Args:
        part: a class, or a function that returns the part.

    Returns:
        dict from the key's name, in capitals, to its :class:`Key`, in the order of the signature.

    Raises:
        UserError: a keyword-only parameter has no annotation or no default.
    """
    if not isinstance(part, type):
        return _signature_keys(part, part)
    keys = {}
    for owner in part.__mro__:
        if "__init__" not in vars(owner) or owner is object:
            continue
        for name, key in _signature_keys(owner, owner.__init__).items():
            keys.setdefault(name, key)
        kinds = {parameter.kind for parameter in inspect.signature(owner.__init__).parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return keys


def _signature_keys(owner, function):
    docs = _argument_docs(inspect.getdoc(owner) or "") | _argument_docs(inspect.getdoc(function) or "")
    hints = typing.get_type_hints(function)
    keys = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if parameter.default is inspect.Parameter.empty or name not in hints:
            raise UserError(
                f"{where_defined(owner)}: {owner.__name__}: the keyword-only parameter {name} is a config key and so "
                f"needs an annotation and a default, such as `{name}: float = 0.5`"
            )
        keys[name.upper()] = Key(hints[name], parameter.default, docs.get(name, ""), owner)
    return keys


def _argument_docs(docstring):
    """The lines of a docstring's Args section: {argument: text}."""
    docs = {}
    lines = iter(docstring.split("\n"))
    if not any(line.strip() == "Args:" for line in lines):
        return docs
    name = indent = None
    for line in lines:
        if not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        if depth == 0:
            break
        indent = indent or depth
        start = re.match(r"\s+(\w+)(?: \([^)]*\))?: (.*)", line)
        if start and depth == indent:
            name = start[1]
            docs[name] = start[2]
        elif name:
            docs[name] += " " + line.strip()
    return docs


def where_defined(part):
    """``file:line`` of a class or function, as far as Python knows it."""
    try:
        return f"{inspect.getsourcefile(part)}:{inspect.getsourcelines(part)[1]}"
    except (OSError, TypeError):
        return f"module {part.__module__}"


def keywords(part, node):
    """A config node's own keys as the keyword arguments of its part; slots, NAME and foreign keys are left out."""
    return {key.lower(): node[key] for key in config_keys(part) if key in node}


def convert(value, annotation):
    """A config's value as its annotation wants it: an int for a float becomes a float, 1e3 for an int an int.

    Raises:
        UserError: the value does not fit; the message says what would.

    >>> convert(1, float), convert([1, 2], list[float]), convert(None, int | None)
    (1.0, [1.0, 2.0], None)
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            try:
                return convert(value, option)
            except UserError:
                continue
    elif origin is typing.Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        if isinstance(value, str):
            raise UserError(f"{value!r} is none of its values{suggest(value, arguments)}")
    elif origin is list:
        if isinstance(value, (list, tuple)):
            return [convert(item, arguments[0]) for item in value]
    elif annotation is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value):
            return float(value)
    elif annotation is int:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1:
            return int(value)
    elif annotation in (bool, str, types.NoneType):
        if isinstance(value, annotation):
            return value
    else:
        raise TypeError(f"{annotation} is not a type that a config can hold")
    raise UserError(f"expected {describe(annotation)}, got {value!r}")


def describe(annotation):
    """A type in a user's words.

    >>> describe(list[float] | None)
    'a list of (a number) or null'
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(describe, arguments))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is list:
        return f"a list of ({describe(arguments[0])})"
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "a string", types.NoneType: "null"}
    return words[annotation]
