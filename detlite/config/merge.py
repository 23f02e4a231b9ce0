"""Layers merged into one tree, strictly: every key must be one that the named part's signature has."""

import re

from detlite.config.config import Config, ReadOnlyList
from detlite.config.layers import Layer, read_section, read_value
from detlite.errors import UserError, shortened, suggest
from detlite.parts import Slot, SlotList
from detlite.signature import config_keys, constructor_arguments, convert


def merge(root, layers):
    """The config tree below the section class ``root`` that the layers, lowest first, describe.

    Raises:
        UserError: an unknown key, part or value, with the layer's file and line.
    """
    tree = _Node(root, "")
    for layer in layers:
        tree.apply(layer.values, layer, layer.source)
    return tree.finish(tuple(layers))


class _Node:
    """One constructor call while layers are still arriving; holds only what they set."""

    def __init__(self, place, path, root=None):
        self.place = place  # a Slot, or the class of a section without NAME
        self.path = path
        self.root = root or self
        self.name = place.default if isinstance(place, Slot) else None
        self.values = {}  # key -> (value, source)
        self.name_source = "default"
        self.children = {}  # slot -> _Node or _List
        if self.part is not None:
            self._open_slots()

    @property
    def part(self):
        if not isinstance(self.place, Slot):
            return self.place
        return self.place.registry.get(self.name) if self.name else None

    def keys(self):
        shared = getattr(self.place, "shared", None)
        return (config_keys(shared) if shared else {}) | (config_keys(self.part) if self.part else {})

    def _open_slots(self):
        for key, place in getattr(self.part, "slots", {}).items():
            if key not in self.children:
                node_class = _List if isinstance(place, SlotList) else _Node
                self.children[key] = node_class(place, f"{self.path}.{key}".lstrip("."), self.root)

    def apply(self, section, layer, where):
        section = read_section(section, f"{where}: {self.path}")
        if section is None:  # an empty section sets nothing
            return
        if not isinstance(section, dict):
            hint = ""
            if isinstance(self.place, Slot) and isinstance(section, str) and section in self.place.registry:
                hint = f"; write {{NAME: {section}}}" if layer.file else f"; write {self.path}.NAME {section}"
            raise UserError(f"{where}: {self.path} is a section of keys, got {shortened(section)}{hint}")
        if isinstance(self.place, Slot):
            if "NAME" in section:
                self._rename(section["NAME"], layer.locate(section, "NAME"))
            elif self.part is None:
                raise UserError(
                    f"{where}: {self.path} needs a NAME, one of the registered {self.place.registry.slot}s"
                    f"{suggest('', self.place.registry)}"
                )
        keys = self.keys()
        for key, value in section.items():
            where = layer.locate(section, key)
            path = f"{self.path}.{key}".lstrip(".")
            if key == "NAME" and isinstance(self.place, Slot):
                continue
            if key in self.children:
                self.children[key].apply(value, layer, where)
            elif key in keys:
                self.values[key] = (read_value(value, keys[key].annotation, f"{where}: {path}"), where)
            else:
                raise UserError(f"{where}: {path}: {self._no_key(key)}")
        self._choose(section, layer)

    def _choose(self, section, layer):
        """Of a section's ``alternatives``, keys of which one holds, the one that a layer sets makes the others null."""
        keys = getattr(self.part, "alternatives", ())
        chosen = [key for key in keys if key in section and self.values[key][0] is not None]
        if len(chosen) > 1:
            where = ", ".join(dict.fromkeys(layer.locate(section, key) for key in chosen))
            raise UserError(f"{where}: {self.path}: {' and '.join(chosen)} are both set; choose one")
        for key in keys if chosen else ():
            if key != chosen[0]:
                self.values[key] = (None, layer.locate(section, chosen[0]))

    def _no_key(self, key):
        if "." in str(key):
            *sections, last = str(key).split(".")
            nested = ": {".join([*sections, f"{last}: ..."]) + "}" * len(sections)
            return f"keys with dots are for the command line; in a file write {nested}"
        message = f"{self.name or self.path or 'the config'} has no key {key}"
        elsewhere = list(self.root.paths_of(key))
        if elsewhere:
            return f"{message}; did you mean {' or '.join(elsewhere)}?"
        return message + suggest(key, [*self.keys(), *self.children])

    def paths_of(self, key):
        """Where in the tree, from here on, there is a key of that name."""
        if key in self.keys() or key in self.children:
            yield f"{self.path}.{key}".lstrip(".")
        for child in self.children.values():
            yield from child.paths_of(key)

    def _rename(self, name, where):
        registry = self.place.registry
        if not isinstance(name, str):
            raise UserError(f"{where}: {self.path}.NAME: expected the {registry.slot}'s name, got {shortened(name)}")
        try:
            registry.get(name)
        except UserError as error:
            raise UserError(f"{where}: {self.path}.NAME: {error}") from None
        self.name_source = where
        if name == self.name:
            return
        old_slots = getattr(self.part, "slots", {})
        self.name = str(name)
        shared = config_keys(self.place.shared) if self.place.shared else {}
        self.values = {key: value for key, value in self.values.items() if key in shared}
        new_slots = getattr(self.part, "slots", {})
        self.children = {
            key: child
            for key, child in self.children.items()
            if key in new_slots and child.moves_to(old_slots[key], new_slots[key])
        }
        self._open_slots()

    def moves_to(self, old, new):
        """Stay in another composite's slot of the same name, if it takes the same parts; whether that was possible."""
        if isinstance(old, Slot) and isinstance(new, Slot):
            if old.registry is not new.registry or (self.name_source == "default" and old.default != new.default):
                return False
        elif old is not new:
            return False
        self.place = new
        return True

    def finish(self, layers=()):
        values, sources = {}, {}
        if isinstance(self.place, Slot):
            values["NAME"], sources["NAME"] = self.name, self.name_source
        overrides = {}
        if isinstance(self.place, Slot) and self.name == self.place.default:
            if self.name is None:
                raise UserError(f"{self.path} needs a NAME{suggest('', self.place.registry)}")
            overrides = self.place.overrides
        keys = self.keys()
        for key in overrides.keys() - keys.keys():
            raise UserError(
                f"{self.path}: its slot overrides {key}, but {self.name} has no such key{suggest(key, keys)}"
            )
        for key, spec in keys.items():
            if key in self.values:
                value, sources[key] = self.values[key]
            else:
                default = overrides.get(key, spec.default)
                value, sources[key] = convert(default, spec.annotation), "default"
            values[key] = _read_only(value)
        self._check_section(values, sources)
        for key in getattr(self.part, "slots", {}):
            values[key] = self.children[key].finish()
            if isinstance(self.children[key], _List):
                sources[key] = self.children[key].source
        return Config(values, self.path, sources, layers)

    def _check_section(self, values, sources):
        """Call the section's class, which has no part behind it, for what it has to say about its values."""
        section = getattr(self.place, "shared", None) if isinstance(self.place, Slot) else self.place
        if section is None or hasattr(section, "from_config"):
            return
        try:
            section(**constructor_arguments(section, values))
        except ValueError as error:
            layers = {sources.get(word) for word in re.findall(r"\w+", str(error))} - {None, "default"}
            where = [", ".join(sorted(layers)), self.path]
            raise UserError(": ".join([*filter(None, where), str(error)])) from None


class _List:
    """A list of constructor calls: a layer replaces it whole, or edits entries by their numbers."""

    def __init__(self, place, path, root):
        self.place = place
        self.path = path
        self.root = root
        self._replace(place.default, Layer("default", {}), "default")
        self.is_default = True

    def apply(self, value, layer, where):
        self.is_default = False
        value = read_section(value, f"{where}: {self.path}")
        if isinstance(value, (list, tuple)):
            self._replace(value, layer, where)
        elif isinstance(value, dict) and "NAME" not in value:
            for index, section in value.items():
                if str(index) not in map(str, range(len(self.nodes))):
                    raise UserError(
                        f"{layer.locate(value, index)}: {self.path}.{index}: there is no such entry; "
                        f"the list has {len(self.nodes)}, counted from 0"
                    )
                self.nodes[int(index)].apply(section, layer, layer.locate(value, index))
        else:
            raise UserError(
                f"{where}: {self.path} is a list of parts, got {shortened(value)}; write [{{NAME: ..., ...}}], "
                "or [] for none"
            )

    def _replace(self, entries, layer, where):
        self.source = where
        self.nodes = []
        for index, entry in enumerate(entries):
            node = _Node(Slot(self.place.registry), f"{self.path}.{index}", self.root)
            node.apply(entry if entry is not None else {}, layer, where)
            self.nodes.append(node)

    def moves_to(self, old, new):
        """As :meth:`_Node.moves_to`."""
        return (
            isinstance(new, SlotList)
            and old.registry is new.registry
            and not (self.is_default and old.default != new.default)
        )

    def paths_of(self, key):
        """As :meth:`_Node.paths_of`."""
        for node in self.nodes:
            yield from node.paths_of(key)

    def finish(self):
        return ReadOnlyList(node.finish() for node in self.nodes)


def _read_only(value):
    return ReadOnlyList(map(_read_only, value)) if isinstance(value, list) else value
