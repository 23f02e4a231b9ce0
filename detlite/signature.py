"""What a class lets a config set: read from its signature, its annotations and its docstring.

A part's positional parameters are what the model hands it; its keyword-only parameters are the
keys of its config node, in capitals. A part that ends its signature in ``**kwargs`` also takes the keys of
the class that it extends.
"""

import functools
import inspect
import math
import re
import sys
import types
import typing
from dataclasses import dataclass

from detlite.errors import UserError, shortened, suggest


@dataclass(frozen=True)
class Key:
    """One key of a config node: the keyword-only parameter ``parameter`` of ``owner``."""

    parameter: str
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
        UserError: a keyword-only parameter has no annotation or no default, one that no config can hold, or a name
            that is taken.
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
        try:
            _check_parameter(parameter, hints, keys)
        except UserError as error:
            where = f"{where_defined(owner)}: {owner.__name__}"
            raise UserError(f"{where}: the keyword-only parameter {name} is a config key {error}") from None
        keys[name.upper()] = Key(name, hints[name], parameter.default, docs.get(name, ""), owner)
    return keys


def _check_parameter(parameter, hints, keys):
    name = parameter.name
    if parameter.default is inspect.Parameter.empty or name not in hints:
        raise UserError(f"and so needs an annotation and a default, such as `{name}: float = 0.5`")
    if not _can_hold(hints[name]):
        raise UserError(
            f"and so cannot be annotated with {hints[name]}, but with bool, int, float, str, None, Literal[...], "
            "list[...] and unions of these"
        )
    if name.upper() in {"NAME", *keys}:
        raise UserError(f"by the name {name.upper()}, which is taken; call it something else")
    try:
        convert(parameter.default, hints[name])
    except UserError as error:
        raise UserError(f"whose default does not fit its annotation: {error}") from None


def _can_hold(annotation):
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (list, typing.Union, types.UnionType):
        return all(map(_can_hold, arguments))
    return origin is typing.Literal or annotation in (bool, int, float, str, types.NoneType)


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
        start = re.match(r"\s+(\w+)(?: \([^)]*\))?:(?: (.*)|$)", line)
        if start and depth == indent:
            name = start[1]
            docs[name] = start[2] or ""
        elif name:
            docs[name] = f"{docs[name]} {line.strip()}".lstrip()
    return docs


def first_sentence(part):
    """The sentence that a class or function opens its docstring with, or nothing; not that of the class above."""
    return " ".join(inspect.cleandoc(part.__doc__ or "").split("\n\n")[0].split())


def where_defined(part):
    """``file:line`` of a class or function, as far as Python knows it."""
    try:
        return f"{inspect.getsourcefile(part)}:{inspect.getsourcelines(part)[1]}"
    except (OSError, TypeError):
        return f"module {part.__module__}"


def constructor_arguments(part, node):
    """A config node's own keys as the keyword arguments of its part; slots, NAME and foreign keys are left out."""
    return {spec.parameter: node[key] for key, spec in config_keys(part).items() if key in node}


def accepts(part, parameter):
    """Whether a part can be called with a parameter of that name.

    >>> takes(lambda labels, generator, losses: None, "losses")
    True
    """
    return parameter in inspect.signature(part).parameters


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
            raise UserError(f"{shortened(value)} is none of its values{suggest(value, arguments)}")
    elif origin is list:
        if isinstance(value, (list, tuple)):
            return [_convert_item(item, arguments[0], number) for number, item in enumerate(value)]
        if not isinstance(value, dict):
            hint = f"; a list is written [{value}]" if value not in (None, "") and len(str(value)) < 60 else ""
            raise UserError(f"expected {describe(annotation)}, got {shortened(value)}{hint}")
    elif annotation is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if abs(value) <= sys.float_info.max or value in (math.inf, -math.inf):
                return float(value)
    elif annotation is int:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1:
            return int(value)
    elif annotation in (bool, str, types.NoneType):
        if isinstance(value, annotation):
            return value
    else:
        raise TypeError(f"{annotation} is not a type that a config can hold")
    hint = "; put it in quotes" if annotation is str and isinstance(value, (int, float)) else ""
    raise UserError(f"expected {describe(annotation)}, got {shortened(value)}{hint}")


def _convert_item(item, annotation, number):
    try:
        return convert(item, annotation)
    except UserError as error:
        raise UserError(f"entry {number}: {error}") from None


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
