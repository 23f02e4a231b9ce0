"""Layers merged into one tree, strictly: every key must be one that the named part's signature has."""

from detlite.config.node import Config, ReadOnlyList
from detlite.config.yaml import parse_yaml
from detlite.errors import UserError, suggest
from detlite.registry import Slot, SlotList
from detlite.schema import config_keys, convert


class Text(str):
    """A value from the command line: text whose type only the key that it is for can tell."""


class Layer:
    """Values from one place.

    Args:
        source: a file's path, "command line", or another name for messages.
        values: nested mapping of what it sets.
    """

    def __init__(self, source, values):
        self.source = source
        self.values = values

    def locate(self, section, key):
        """Where the layer sets a section's key: "file:line" if it is a file."""
        line = getattr(section, "lines", {}).get(key)
        return f"{self.source}:{line}" if line else self.source


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

    def __init__(self, place, path):
        self.place = place  # a Slot, or the class of a section without NAME
        self.path = path
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
        return (config_keys(shared) if shared else {}) | config_keys(self.part)

    def _open_slots(self):
        for key, place in getattr(self.part, "slots", {}).items():
            if key not in self.children:
                node_class = _List if isinstance(place, SlotList) else _Node
                self.children[key] = node_class(place, f"{self.path}.{key}".lstrip("."))

    def apply(self, section, layer, where):
        if isinstance(section, Text):
            section = parse_yaml(section, where)
        if section is None:  # an empty section sets nothing
            return
        if not isinstance(section, dict):
            hint = f"; write {{NAME: {section}}}" if isinstance(self.place, Slot) else ""
            raise UserError(f"{where}: {self.path or 'the file'} is a section of keys, got {section!r}{hint}")
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
                self.values[key] = (_typed(value, keys[key].annotation, f"{where}: {path}"), where)
            else:
                owner = self.name or self.path or "the config"
                raise UserError(f"{where}: {path}: {owner} has no key {key}{suggest(key, [*keys, *self.children])}")

    def _rename(self, name, where):
        registry = self.place.registry
        if not isinstance(name, str):
            raise UserError(f"{where}: {self.path}.NAME: expected the name of a {registry.slot}, got {name!r}")
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
            overrides = self.place.overrides
        for key, spec in self.keys().items():
            if key in self.values:
                value, sources[key] = self.values[key]
            else:
                default = overrides.get(key, spec.default)
                value, sources[key] = convert(default, spec.annotation), "default"
            values[key] = _read_only(value)
        for key in getattr(self.part, "slots", {}):
            values[key] = self.children[key].finish()
        return Config(values, self.path, sources, layers)


class _List:
    """A list of constructor calls: a layer replaces it whole, or edits entries by their numbers."""

    def __init__(self, place, path):
        self.place = place
        self.path = path
        self.nodes = []
        self._replace(place.default, Layer("default", {}), "default")

    def apply(self, value, layer, where):
        if isinstance(value, Text):
            value = parse_yaml(value, where)
        if isinstance(value, list):
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
            raise UserError(f"{where}: {self.path} is a list of parts: write [{{NAME: ..., ...}}], got {value!r}")

    def _replace(self, entries, layer, where):
        self.nodes = []
        for index, entry in enumerate(entries):
            node = _Node(Slot(self.place.registry), f"{self.path}.{index}")
            node.apply(entry if entry is not None else {}, layer, where)
            self.nodes.append(node)

    def moves_to(self, old, new):
        """As :meth:`_Node.moves_to`."""
        return isinstance(new, SlotList) and old.registry is new.registry

    def finish(self):
        return ReadOnlyList(node.finish() for node in self.nodes)


def _typed(value, annotation, where):
    readings = [value]
    if isinstance(value, Text):
        readings = [str(value)] if annotation is str else [parse_yaml(value, where), str(value)]
    problem = None
    for reading in readings:
        try:
            return convert(reading, annotation)
        except UserError as error:
            problem = problem or error
    raise UserError(f"{where}: {problem}")


def _read_only(value):
    return ReadOnlyList(map(_read_only, value)) if isinstance(value, list) else value
