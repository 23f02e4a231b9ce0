"""How a class becomes a part: registries of named parts, and the slots by which one part holds others.

A part is a plain class (or a function that returns one). The model hands it its positional parameters; its keyword-only
parameters are the keys of its config node. A composite part also has ``slots``, the parts it holds, and a
``from_config(node, *context)`` that builds them.
"""

import importlib
import inspect
import pkgutil
import sys

from fvcore.common.registry import Registry as FvcoreRegistry

from detlite.errors import UserError, suggest
from detlite.signature import config_keys, constructor_arguments, convert, where_defined


class Registry(FvcoreRegistry):
    """Named parts for one slot: ``@MATCHERS.register()`` above a class makes its name usable in a config."""

    def __init__(self, slot, contract, **attributes):
        """
        Args:
            slot: the slot's name in messages, such as "MATCHER".
            contract: what a part of this slot is handed, is called with, and returns.
            attributes: that a built part must have, each with the values that fit; ``...`` is any value, None that it
                may be missing.
        """
        super().__init__(slot)
        self.slot = slot
        self.__doc__ = contract
        self.attributes = attributes

    def register(self, part=None):
        """Decorator that makes a class usable in a config under its own name; ``@X.register`` does as well.

        Raises:
            UserError: the name belongs to another definition, or the signature is none that a config could use.
        """
        if part is None:
            return self.register
        super().register(part)
        return part

    def _do_register(self, name, part):
        for slot in {*config_keys(part)} & {*getattr(part, "slots", ())}:  # refused here, where its author sees it
            raise UserError(f"{where_defined(part)}: {name}: {slot} is both a slot and a keyword-only parameter")
        taken = self._obj_map.get(name)
        if taken is not None and not _same_definition(taken, part):
            raise UserError(
                f"{self.slot} {name} is defined twice, at {where_defined(taken)} "
                f"and at {where_defined(part)}; rename one"
            )
        self._obj_map[name] = part

    def get(self, name):
        """The part registered as ``name``.

        Raises:
            UserError: there is none; the message lists the names and says how to import a module that registers more.
        """
        if name not in self._obj_map:
            raise UserError(
                f"no {self.slot} is called {name!r}{suggest(name, self)}; one of your own needs its module "
                "in IMPORTS or after --import"
            )
        return self._obj_map[name]

    def build(self, node, *context):
        """The part that a config node describes.

        Args:
            node: a mapping with NAME and the part's keys; keys left out keep their defaults.
            context: what the slot's contract says the constructor is handed.

        Raises:
            UserError: an unknown name or key, or a value that the part refuses.
        """
        part = self.get(node.get("NAME"))
        where = getattr(node, "path", None)
        if where is None:  # not a node of a loaded config, whose keys were checked as it was loaded
            node, where = self._checked(part, node), self.slot
        try:
            if hasattr(part, "from_config"):
                built = part.from_config(node, *context)
            else:
                given = constructor_arguments(part, node)
                self._check_call(part, context, given, where)
                built = part(*context, **given)
            self.check_attributes(built, f"{where}: {node['NAME']}")
            return built
        except UserError:
            raise
        except (ValueError, OverflowError, RuntimeError) as error:  # torch raises RuntimeError for impossible sizes
            raise UserError(f"{where}: {node['NAME']}: {error}") from error

    def _check_call(self, part, context, given, where):
        try:
            inspect.signature(part).bind(*context, **given)
        except TypeError as error:
            raise UserError(
                f"{where}: {part.__name__}: {error} where a {self.slot} is built: {' '.join(self.__doc__.split())}"
            ) from None

    def check_attributes(self, built, where):
        """Refuse a built part that lacks an attribute that the contract asks for.

        Raises:
            UserError: an attribute is missing, or has a value that the model does not know.
        """
        for name, choices in self.attributes.items():
            optional = choices is not ... and None in choices
            if not hasattr(built, name) and not optional:
                raise UserError(f"{where} has no attribute {name}; the contract: {' '.join(self.__doc__.split())}")
            value = getattr(built, name, None)
            if choices is not ... and value not in choices:
                fit = " or ".join(repr(choice) for choice in choices if choice is not None)
                raise UserError(f"{where}: its attribute {name} must be {fit}, got {value!r}")

    def _checked(self, part, node):
        keys, slots = config_keys(part), getattr(part, "slots", {})
        values = {}
        for key, value in node.items():
            try:
                values[key] = convert(value, keys[key].annotation) if key in keys else value
            except UserError as error:
                raise UserError(f"{self.slot}: {node['NAME']}: {key}: {error}") from None
            if key not in {"NAME", *keys, *slots}:
                raise UserError(f"{self.slot}: {node['NAME']} has no key {key}{suggest(key, [*keys, *slots])}")
        return values

    def __iter__(self):
        """The registered names."""
        return iter(self._obj_map)

    def __len__(self):
        return len(self._obj_map)


def _same_definition(old, new):
    """Whether ``new`` is ``old`` again: a re-run notebook cell, a reloaded module, a file imported under two names."""
    if old.__qualname__ != new.__qualname__:
        return False
    if old.__module__ == new.__module__:
        return True
    try:
        return inspect.getsourcefile(old) == inspect.getsourcefile(new)
    except TypeError:
        return False


def import_modules(package):
    """Import every module of a package, so that a part is registered by being in one; what fails in one is raised.

    Args:
        package: the name of a package that is imported or, in its ``__init__``, being imported.
    """
    for module in pkgutil.walk_packages(sys.modules[package].__path__, f"{package}."):
        importlib.import_module(module.name)


class Slot:
    """A place in a composite part for one part of a registry.

    Args:
        registry: the parts that fit.
        default: the NAME that holds when no config sets one; None if a config must.
        shared: a class whose keys the node has whatever part is named.
        overrides: keyword arguments that replace the default part's own defaults here, as long as it is the one named.
    """

    def __init__(self, registry, default=None, *, shared=None, **overrides):
        self.registry = registry
        self.default = default
        self.shared = shared
        self.overrides = {key.upper(): value for key, value in overrides.items()}


class SlotList:
    """A place for a list of parts of one registry, each a mapping with NAME and the part's keys.

    Args:
        registry: the parts that fit.
        default: the list that holds when no config sets one.
    """

    def __init__(self, registry, default=()):
        self.registry = registry
        self.default = list(default)
