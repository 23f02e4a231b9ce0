"""Layers merged into one tree: every key must be in the signature of its part."""

import re

from detlite.config.config import Config, ReadOnlyList, join_path
from detlite.config.foreign import counterpart
from detlite.config.layers import Layer, read_section, read_value
from detlite.config.renamed import RENAMED
from detlite.errors import UserError, prefix_errors, shortened, suggest
from detlite.parts import Slot, SlotList, node_keys
from detlite.signature import constructor_arguments, convert

# While layers arrive, lowest first, the tree consists of _Node (a section or a part) and _List (a list of parts). They
# hold only values that layers set: a later layer may change a NAME, and with it the defaults. Both have four methods:
#   apply(value, layer, where)  take over a layer's value, or raise a UserError.
#   keep_in(old, new)           keep this node when its parent's NAME changes, if the new parent's slot takes the same
#                               kind of part, and return whether it was kept. ``old`` and ``new`` are the slots.
#   paths_of(key)               yield the paths, from here down, at which there is a key of that name.
#   finish()                    fill in the defaults and return the read-only Config or ReadOnlyList.


def merge(root, layers, translated=None):
    """Merge layers, lowest first, into the config tree of the section class ``root``, or raise a UserError.

    ``translated`` is a list that receives (layer, key) for each renamed key of a record.
    """
    tree = _Node(root, "")
    for layer in layers:
        tree.apply(layer.values, layer, layer.source)
    if translated is not None:
        translated += tree.translated
    return tree.finish(tuple(layers))


class _Node:
    """A section, or a part with a NAME, while layers arrive."""

    def __init__(self, slot, path, root=None):
        self.slot = slot  # a Slot, or the class of a section
        self.path = path
        self.root = root or self
        self.has_name = isinstance(slot, Slot)
        self.name, self.part, self.name_source = None, slot, "default"
        if self.has_name:  # both are None until a layer names the part, if the slot has no default
            self.name, self.part = slot.default, slot.default and slot.registry.get(slot.default)
        self.values = {}  # key -> (value, source)
        self.children = {}  # slot's key -> _Node or _List
        self.translated = []  # of the root: (layer, renamed key)
        self._open_slots()

    def keys(self):
        return node_keys(self.slot, self.part)

    def _open_slots(self):
        for key, slot in getattr(self.part, "slots", {}).items():
            if key not in self.children:
                child = _List if isinstance(slot, SlotList) else _Node
                self.children[key] = child(slot, join_path(self.path, key), self.root)

    def apply(self, section, layer, where):
        section = read_section(section, f"{where}: {self.path}")
        if section is None:  # an empty section sets nothing
            return
        if not isinstance(section, dict):
            hint = ""
            if self.has_name and isinstance(section, str) and section in self.slot.registry:
                hint = f"; write {{NAME: {section}}}" if layer.file else f"; write {self.path}.NAME {section}"
            raise UserError(f"{where}: {self.path} is a section of keys, got {shortened(section)}{hint}")

        # NAME comes first, wherever it is in the section: it decides which other keys there are.
        if self.has_name and "NAME" in section:
            self._rename(section["NAME"], layer.locate(section, "NAME"))
        elif self.part is None:
            raise UserError(f"{where}: {self.path} needs a NAME{suggest('', self.slot.registry)}")

        keys = self.keys()
        for key, value in section.items():
            where, path = layer.locate(section, key), join_path(self.path, key)
            if key == "NAME" and self.has_name:
                continue
            if key in self.children:
                value = read_section(value, f"{where}: {path}")
                self._fit_child(key, value)
                self.children[key].apply(value, layer, where)
            elif key in keys:
                self.values[key] = (read_value(value, keys[key].annotation, f"{where}: {path}"), where)
            elif path in RENAMED:
                self._translate(path, value, layer, where)
            else:
                raise UserError(f"{where}: {path}: {self._no_key(key, value)}")
        self._null_alternatives(section, layer)

    def _fit_child(self, key, value):
        """Exchange a node for a list, or a list for a node, if the slot takes both and a layer's value is the other."""
        slot, child = self.part.slots[key], self.children[key]
        if getattr(slot, "as_list", None):
            if isinstance(value, (list, tuple)) and isinstance(child, _Node):
                self.children[key] = _List(slot.as_list, child.path, self.root)
            elif isinstance(value, dict) and "NAME" in value and isinstance(child, _List):
                self.children[key] = _Node(slot, child.path, self.root)

    def _translate(self, path, value, layer, where):
        """Set the key that a renamed key is now, if detlite wrote the layer."""
        new_path = RENAMED[path]
        if not layer.is_record:
            raise UserError(f"{where}: {path} has a new name; write {new_path}")
        for key in reversed(new_path.split(".")):
            value = {key: value}
        self.root.apply(value, layer, where)
        self.root.translated.append((layer, path))

    def _null_alternatives(self, section, layer):
        """Set a section's other ``alternatives`` to null if a layer sets one of them."""
        keys = getattr(self.part, "alternatives", ())
        chosen = [key for key in keys if key in section and self.values[key][0] is not None]
        if not chosen:
            return
        where = list(dict.fromkeys(layer.locate(section, key) for key in chosen))
        if len(chosen) > 1:
            raise UserError(f"{', '.join(where)}: {self.path}: {' and '.join(chosen)} are both set; choose one")
        for key in keys:
            if key not in chosen:
                self.values[key] = (None, where[0])

    def _no_key(self, key, value):
        if "." in str(key):
            *sections, last = str(key).split(".")
            nested = ": {".join([*sections, f"{last}: ..."]) + "}" * len(sections)
            return f"keys with dots are for the command line; in a file write {nested}"
        foreign = counterpart(join_path(self.path, key), value, self.root.has_key)
        if foreign:
            return foreign
        message = f"{self.name or self.path or 'the config'} has no key {key}"
        elsewhere = list(self.root.paths_of(key))
        if elsewhere:
            return f"{message}; did you mean {' or '.join(elsewhere)}?"
        return message + suggest(key, [*self.keys(), *self.children])

    def has_key(self, word):
        """Check whether there is a key of that name anywhere, in small letters or capitals."""
        key = word.upper()
        return key == "NAME" or any(self.paths_of(key))

    def paths_of(self, key):
        if key in self.keys() or key in self.children:
            yield join_path(self.path, key)
        for child in self.children.values():
            yield from child.paths_of(key)

    def _rename(self, name, where):
        registry = self.slot.registry
        if not isinstance(name, str):
            raise UserError(f"{where}: {self.path}.NAME: expected the {registry.slot}'s name, got {shortened(name)}")
        with prefix_errors(f"{where}: {self.path}.NAME: "):
            part = registry.get(name)
        self.name_source = where
        if name == self.name:
            return
        old_slots, new_slots = getattr(self.part, "slots", {}), getattr(part, "slots", {})
        self.name, self.part = str(name), part

        # The former part's values are dropped. Shared keys stay, and so do children with a place in the new part.
        shared = node_keys(self.slot, None)
        self.values = {key: value for key, value in self.values.items() if key in shared}
        for key, child in list(self.children.items()):
            if key not in new_slots or not child.keep_in(old_slots[key], new_slots[key]):
                del self.children[key]
        self._open_slots()

    def keep_in(self, old, new):
        if isinstance(old, Slot) and isinstance(new, Slot):
            changes_default = self.name_source == "default" and old.default != new.default
            keep = old.registry is new.registry and not changes_default
        else:
            keep = old is new
        if keep:
            self.slot = new  # its overrides may differ
        return keep

    def finish(self, layers=()):
        values, sources, overrides = {}, {}, {}
        if self.has_name:
            if self.name is None:
                raise UserError(f"{self.path} needs a NAME{suggest('', self.slot.registry)}")
            values["NAME"], sources["NAME"] = self.name, self.name_source
            if self.name == self.slot.default:
                overrides = self.slot.overrides

        # Values: a layer's, else the slot's override, else the signature's default.
        keys = self.keys()
        for key in overrides.keys() - keys.keys():
            hint = suggest(key, keys)
            raise UserError(f"{self.path}: its slot overrides {key}, but {self.name} has no such key{hint}")
        for key, spec in keys.items():
            if key in self.values:
                value, sources[key] = self.values[key]
            else:
                value, sources[key] = spec.default, "default"
                if key in overrides:
                    value = convert(overrides[key], spec.annotation)
            values[key] = _read_only(value)
        self._check_section(values, sources)

        # Children, in the order of the part's slots.
        for key in getattr(self.part, "slots", {}):
            child = self.children[key]
            values[key] = child.finish()
            if isinstance(child, _List):
                sources[key] = child.source
        return Config(values, self.path, sources, layers)

    def _check_section(self, values, sources):
        """Call a section's class, which only validates its values."""
        section = self.slot.shared if self.has_name else self.slot
        if section is None or hasattr(section, "from_config"):
            return
        try:
            section(**constructor_arguments(section, values))
        except ValueError as error:
            # The message names keys: add the layers that set them.
            layers = {sources.get(word) for word in re.findall(r"\w+", str(error))} - {None, "default"}
            where = ", ".join(sorted(layers))
            raise UserError(": ".join(filter(None, [where, self.path, str(error)]))) from None


class _List:
    """A list of parts while layers arrive, which replace it or edit entries by index."""

    def __init__(self, slot, path, root):
        self.slot = slot
        self.path = path
        self.root = root
        self._replace(slot.default, Layer("default", {}), "default")
        self.is_default = True

    def apply(self, value, layer, where):
        self.is_default = False
        value = read_section(value, f"{where}: {self.path}")
        if isinstance(value, (list, tuple)):
            self._replace(value, layer, where)
        elif isinstance(value, dict) and "NAME" not in value:
            for index, section in value.items():
                where = layer.locate(value, index)
                if str(index) not in map(str, range(len(self.nodes))):
                    problem = f"there is no such entry; the list has length {len(self.nodes)}, counted from 0"
                    raise UserError(f"{where}: {self.path}.{index}: {problem}")
                self.nodes[int(index)].apply(section, layer, where)
        else:
            remedy = "write [{NAME: ..., ...}], or [] for none"
            raise UserError(f"{where}: {self.path} is a list of parts, got {shortened(value)}; {remedy}")

    def _replace(self, entries, layer, where):
        self.source = where
        self.nodes = []
        for index, entry in enumerate(entries):
            slot = Slot(self.slot.registry, shared=self.slot.shared)
            node = _Node(slot, join_path(self.path, index), self.root)
            node.apply({} if entry is None else entry, layer, where)
            self.nodes.append(node)

    def keep_in(self, old, new):
        if not isinstance(new, SlotList) or old.registry is not new.registry:
            return False
        return not self.is_default or old.default == new.default

    def paths_of(self, key):
        for node in self.nodes:
            yield from node.paths_of(key)

    def finish(self):
        return ReadOnlyList(node.finish() for node in self.nodes)


def _read_only(value):
    return ReadOnlyList(map(_read_only, value)) if isinstance(value, list) else value
