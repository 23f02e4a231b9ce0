"""Registries of named parts, and the slots by which one part holds others.

A part is a plain class (or a function that returns one). The model passes its positional parameters; its keyword-only
parameters are the keys of its config node. A composite part also has ``slots``, the parts it holds, and a
``from_config(node, *context)`` that builds them.
"""

import contextlib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from fvcore.common.registry import Registry as FvcoreRegistry

from detlite.errors import UserError, explain_error, prefix_errors, suggest
from detlite.signature import config_keys, constructor_arguments, convert, where_defined

ORIGIN = "_origin_in_config"  # attribute of a built part


class Origin(NamedTuple):
    """The place of a built part in the config."""

    slot: str  # the slot's name, such as "MATCHER"
    where: str  # path and class, as messages name them: "MODEL.RPN.MATCHER: TopKMatcher"
    context: tuple  # the part's positional arguments, if they are numbers or lists


class Registry(FvcoreRegistry):
    """The parts of a slot: ``@MATCHERS.register()`` makes a class usable in configs."""

    def __init__(self, slot: str, contract: str, **attributes: Any):
        """
        Args:
            slot: the slot's name in messages, such as "MATCHER".
            contract: the arguments that a part of this slot is built with and called with, and its results.
            attributes: required attributes of a built part, with their allowed values; ``...`` allows any value, None
                makes it optional.
        """
        super().__init__(slot)
        self.slot = slot
        self.__doc__ = contract
        self.contract = " ".join(contract.split())  # on one line, for messages
        self.attributes = attributes

    def register(self, part: Any = None) -> Any:
        """Register a class by its name: a decorator, with or without parentheses."""
        decorator = super().register()
        return decorator if part is None else decorator(part)

    def _do_register(self, name, part):
        """Add a part, or replace its earlier version, where fvcore would fail."""
        for slot in {*config_keys(part)} & {*getattr(part, "slots", ())}:
            raise UserError(f"{where_defined(part)}: {name}: {slot} is both a slot and a keyword-only parameter")
        taken = self._obj_map.get(name)
        if taken is not None and not _same_definition(taken, part):
            places = f"at {where_defined(taken)} and at {where_defined(part)}"
            raise UserError(f"{self.slot} {name} is defined twice, {places}; rename one")
        self._obj_map[name] = part

    def get(self, name: str) -> Any:
        """Return the part of that name, or raise a UserError that lists the names."""
        if name not in self:
            remedy = "a custom part needs its module in IMPORTS or after --import"
            raise UserError(f"no {self.slot} is called {name!r}{suggest(name, self)}; {remedy}")
        return super().get(name)

    def build(self, node: dict, *context: Any) -> Any:
        """Build the part that a config node describes, or raise a UserError.

        Args:
            node: a mapping with NAME and the part's keys; keys left out keep their defaults.
            context: the part's positional arguments, as in the slot's contract.
        """
        part = self.get(node.get("NAME"))
        path = getattr(node, "path", None)
        if path is None:  # a plain mapping; the keys of a loaded config have been checked
            path, node = self.slot, self._checked(part, node)

        # A UserError has its location; other errors of a constructor are about its arguments.
        where = f"{path}: {node['NAME']}"
        try:
            if hasattr(part, "from_config"):
                built = part.from_config(node, *context)
            else:
                arguments = constructor_arguments(part, node)
                try:
                    inspect.signature(part).bind(*context, **arguments)
                except TypeError as error:
                    raise UserError(f"{where}: {error}; the contract: {self.contract}") from None
                built = part(*context, **arguments)
            self.check_attributes(built, where)
            with contextlib.suppress(AttributeError, TypeError):  # of some classes, objects take no attributes
                numbers = tuple(value for value in context if isinstance(value, (int, list)))
                setattr(built, ORIGIN, Origin(self.slot, where, numbers))
            return built
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        except (MemoryError, OverflowError, RuntimeError) as error:  # torch raises RuntimeError for impossible sizes
            sizes = {key: value for key, value in node.items() if type(value) is int}
            largest = max(sizes, key=sizes.get, default=None)
            hint = f" (its largest number is {largest} {sizes[largest]})" if sizes else ""
            reason = explain_error(error) or str(error).split("\n")[0]
            raise UserError(f"{where}: {reason}{hint}") from error

    def check_attributes(self, built: Any, where: str) -> None:
        """Raise a UserError if a required attribute is missing or has a wrong value."""
        for name, allowed in self.attributes.items():
            required = allowed is ... or None not in allowed
            if required and not hasattr(built, name):
                raise UserError(f"{where} has no attribute {name}; the contract: {self.contract}")
            value = getattr(built, name, None)
            if allowed is not ... and value not in allowed:
                choices = " or ".join(repr(choice) for choice in allowed if choice is not None)
                raise UserError(f"{where}: its attribute {name} must be {choices}, got {value!r}")

    def _checked(self, part, node):
        keys, slots = config_keys(part), getattr(part, "slots", {})
        values = dict(node)
        for key, value in node.items():
            if key in keys:
                with prefix_errors(f"{self.slot}: {node['NAME']}: {key}: "):
                    values[key] = convert(value, keys[key].annotation)
            elif key != "NAME" and key not in slots:
                raise UserError(f"{self.slot}: {node['NAME']} has no key {key}{suggest(key, [*keys, *slots])}")
        return values

    def __iter__(self) -> Iterator[str]:
        """Iterate over the registered names."""
        return iter(self._obj_map)

    def __len__(self) -> int:
        return len(self._obj_map)


def _same_definition(old, new):
    """Check whether a notebook cell, a module or a file under another name ran again."""
    if old.__qualname__ != new.__qualname__:
        return False
    if old.__module__ == new.__module__:
        return True
    try:
        return inspect.getsourcefile(old) == inspect.getsourcefile(new)
    except TypeError:
        return False


def import_modules(package):
    """Import every module of an imported package, which registers their parts."""
    for module in pkgutil.walk_packages(sys.modules[package].__path__, f"{package}."):
        importlib.import_module(module.name)


class Slot:
    """One part inside a composite part.

    Args:
        registry: the parts that fit.
        default: the NAME if no config sets one; None if a config must.
        shared: a class whose keys the node has for every part.
        as_list: a SlotList if a config may also give a list of parts, or None.
        overrides: keyword arguments that replace the default part's defaults here, but no other part's.
    """

    def __init__(self, registry, default=None, *, shared=None, as_list=None, **overrides):
        self.registry = registry
        self.default = default
        self.shared = shared
        self.as_list = as_list
        self.overrides = {key.upper(): value for key, value in overrides.items()}


class SlotList:
    """A list of parts inside a composite part.

    Each entry of ``default``, the list if no config sets one, is a mapping with NAME and the part's keys. ``shared`` is
    a class whose keys each entry has for every part.
    """

    def __init__(self, registry, default=(), *, shared=None):
        self.registry = registry
        self.default = list(default)
        self.shared = shared


def build_slots(part, node, *names):
    """Build the parts in some slots of a composite part, which take no arguments. A SlotList gives a list of parts."""
    built = []
    for name in names:
        slot = part.slots[name]
        if isinstance(slot, SlotList):
            built.append([slot.registry.build(entry) for entry in node[name]])
        else:
            built.append(slot.registry.build(node[name]))
    return built


def node_keys(slot, part):
    """Return a node's config keys: its slot's shared keys, then its part's."""
    keys = {}
    for owner in (getattr(slot, "shared", None), part):
        if owner is not None:
            keys |= config_keys(owner)
    return keys
