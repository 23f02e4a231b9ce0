"""Explain a config: show each value with its type, default, owner, meaning and layer."""

import difflib
import os
import shutil
import textwrap
from dataclasses import dataclass

from detlite.config.config import join_path
from detlite.config.defaults import Root
from detlite.config.foreign import counterpart
from detlite.config.yaml import format_value
from detlite.errors import UserError
from detlite.parts import Slot, node_keys
from detlite.signature import convert, describe_type, first_sentence, where_defined


@dataclass(frozen=True)
class Entry:
    """One line of the tree."""

    path: str  # the dotted key of a value, or of a node
    kind: str  # "value", "part" (the value is its NAME), "list" (of NAMEs) or "section" (without a value)
    value: object
    source: str  # the layer that set it: "default", "file:line", "command line", ...; "" for a section
    type: str  # the allowed values, in a user's words
    owner: object  # the class or function that takes the value; for a part or a section, its class
    doc: str  # the meaning, from the owner's docstring
    default: object = None  # the value if no layer sets it

    @property
    def text(self):
        """The value as YAML, or "" for a section."""
        return "" if self.kind == "section" else format_value(self.value)


def explain(cfg):
    """List the entries of a loaded config. A node is followed by its values, then by the nodes inside it."""
    return list(_node_entries(cfg, Root))


def _node_entries(node, slot):
    # The node itself. A slot overrides the defaults of its default part only.
    part, overrides = slot, {}
    if isinstance(slot, Slot):
        part, allowed, source = slot.registry.get(node.NAME), f"{slot.registry.slot} part", node.sources["NAME"]
        yield Entry(node.path, "part", node.NAME, source, allowed, part, first_sentence(part), slot.default)
        if node.NAME == slot.default:
            overrides = slot.overrides
    elif node.path:
        yield Entry(node.path, "section", None, "", "section", part, first_sentence(part))

    # Its values.
    for key, spec in node_keys(slot, part).items():
        default = convert(overrides.get(key, spec.default), spec.annotation)
        path, allowed = join_path(node.path, key), describe_type(spec.annotation)
        yield Entry(path, "value", node[key], node.sources[key], allowed, spec.owner, spec.doc, default)

    # The nodes inside it.
    for key, inner in getattr(part, "slots", {}).items():
        nodes = node[key]
        if not isinstance(nodes, list):
            yield from _node_entries(nodes, inner)
            continue
        inner = getattr(inner, "as_list", inner)
        source, names = node.sources[key], [entry.NAME for entry in nodes]
        allowed, default = f"list of {inner.registry.slot} parts", [entry["NAME"] for entry in inner.default]
        yield Entry(join_path(node.path, key), "list", names, source, allowed, part, "", default)

        # An entry is like a slot, which has a default part and overrides only if the default list is used.
        defaults = inner.default if source == "default" else [{}] * len(names)
        for entry, values in zip(nodes, defaults, strict=True):
            slot = Slot(inner.registry, values.get("NAME"), shared=inner.shared, **values)
            yield from _node_entries(entry, slot)


def select(entries, key):
    """Select the entry of a key, such as "MODEL.RPN.MATCHER", and the entries below it.

    Raises a UserError that names the nearest keys if there is no such key.
    """
    by_path = {entry.path: entry for entry in entries}
    if key in by_path:
        return [entry for entry in entries if f"{entry.path}.".startswith(f"{key}.")]

    # A NAME has no separate entry: the entry of its part shows it.
    node = by_path.get(key.removesuffix(".NAME"))
    if node and node.kind == "part":
        return [node]

    foreign = counterpart(key)
    if foreign:
        raise UserError(f"there is no key {key}: {foreign}")

    # Suggest keys anywhere in the config with a similar last name, or else with a similar path.
    names = [path.rpartition(".")[2] for path in by_path]
    best_names = difflib.get_close_matches(key.rpartition(".")[2].upper(), names, n=1)  # one or none
    candidates = [path for path in by_path if path.rpartition(".")[2] in best_names] or by_path
    near = difflib.get_close_matches(key.upper(), candidates, n=3, cutoff=0)
    raise UserError(f"there is no key {key}; did you mean {' or '.join(near)}?")


def format_tree(entries, width=None):
    """Format one line per entry: name, value, source, and the default if the value differs.

    The first entry is not indented. Lines are cut at ``width``; None is the terminal's width.
    """
    width = width or shutil.get_terminal_size((120, 24)).columns
    top = entries[0].path.count(".")
    rows = []
    for entry in entries:
        source, depth = entry.source, entry.path.count(".") - top
        name = "  " * depth + entry.path.rpartition(".")[2] if depth else entry.path
        if source not in ("", "default") and entry.default is not None and entry.value != entry.default:
            source += f"  (default {ellipsize(format_value(entry.default), 24)})"
        rows.append((name, ellipsize(entry.text, 40), source))
    name_width = max(len(name) for name, _, _ in rows)
    value_width = max(len(value) for _, value, _ in rows)
    lines = [f"{name:<{name_width}}  {value:<{value_width}}  {source}" for name, value, source in rows]
    return "\n".join(ellipsize(line.rstrip(), width) for line in lines)


def format_details(entry):
    """Format everything about one entry, as several lines."""
    head = f"{entry.path}: {entry.text}" if entry.text else entry.path
    default = "" if entry.default is None and entry.kind != "value" else format_value(entry.default)
    location = where_defined(entry.owner)
    near = os.path.relpath(location)
    owner = f"{entry.owner.__name__}, {location if near.startswith('..') else near}"
    facts = {"type": entry.type, "default": default, "set by": entry.source, "owner": owner}
    about = textwrap.wrap(entry.doc, 110, initial_indent="    ", subsequent_indent="    ")
    return "\n".join([head, *about, *(f"    {name:<9}{text}" for name, text in facts.items() if text)])


def format_selection(entries):
    """Format the output of `explain KEY` from the entries that ``select`` returns.

    A value, or a node that has only values, is shown in full. A node with nodes inside is shown as a tree.
    """
    nodes = [entry for entry in entries if entry.kind != "value"]
    if len(nodes) > 1 or any(entry.kind == "list" for entry in nodes):
        return format_tree(entries)
    return "\n".join(map(format_details, entries))


def format_difference(one, other):
    """Format the values that differ between two explained configs, with their layers.

    A key that only one config has is shown only if a layer set it; otherwise it merely follows from a different NAME.
    Equal configs give "".
    """
    first = {entry.path: entry for entry in one if entry.kind != "section"}
    second = {entry.path: entry for entry in other if entry.kind != "section"}
    lines = []
    for path in first | second:
        pair = first.get(path), second.get(path)
        differs = pair[0].value != pair[1].value if all(pair) else (pair[0] or pair[1]).source != "default"
        is_list_entry = path.rpartition(".")[2].isdigit()  # the list's line shows its NAME
        if differs and not is_list_entry:
            texts = [(entry.text, f"  ({entry.source})") if entry else ("no such key", "") for entry in pair]
            (old, old_source), (new, new_source) = texts
            width = min(60, max(len(old), len(new)))
            lines += [path, f"  - {old:<{width}}{old_source}", f"  + {new:<{width}}{new_source}"]
    return "\n".join(line.rstrip() for line in lines)


def ellipsize(text, length):
    """Cut a text to a length, such as "abc..."."""
    return text if len(text) <= length else text[: length - 3] + "..."
