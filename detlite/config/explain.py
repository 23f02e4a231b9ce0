"""The config explains itself: every value with its type, default, owner, meaning and the layer that set it.

Nothing is written down here: all of it is read from signatures, annotations, docstrings and the loaded config.
"""

import difflib
import os
import shutil
import textwrap
from dataclasses import dataclass

from detlite.config.defaults import Root
from detlite.config.yaml import format_value
from detlite.errors import UserError, suggest
from detlite.parts import Slot, SlotList
from detlite.signature import config_keys, convert, describe, first_sentence, where_defined


@dataclass(frozen=True)
class Entry:
    """One line of the tree.

    Attributes:
        path: its dotted key.
        kind: "value", "part" (its path is the node's, its value the NAME), "list" (the NAMEs) or "section" (no value).
        value: what holds.
        source: the layer that set it: "default", "file:line", "command line", ...; "" for a section.
        type: what it may be, in a user's words.
        default: what holds where no layer sets it.
        note: why the default is not the part's own; or "".
        owner: the class, or function, that takes it; of a part or section itself.
        doc: what it is, from the owner's docstring.
    """

    path: str
    kind: str
    value: object
    source: str
    type: str
    default: object
    note: str
    owner: object
    doc: str


def explain(cfg):
    """The entries of a loaded config in the tree's order: a node, then its values, then the nodes that it holds.

    Args:
        cfg: what :func:`detlite.config.load_config` returned.

    Returns:
        list of :class:`Entry`.
    """
    return list(_node_entries(cfg, Root))


def _node_entries(node, place, holder=None, given=()):
    """A node's entries; ``given`` are NAME and values that hold by default in this place, a slot of ``holder``."""
    part, shared, given = place, None, dict(given)
    if isinstance(place, Slot):
        part, shared = place.registry.get(node.NAME), place.shared
        kind = f"{place.registry.slot} part"
        yield Entry(
            node.path, "part", node.NAME, node.sources["NAME"], kind, given.get("NAME"), "", part, first_sentence(part)
        )
        given = given if given.get("NAME") == node.NAME else {}
    elif node.path:
        yield Entry(node.path, "section", None, "", "section", None, "", part, first_sentence(part))
    for key, spec in ((config_keys(shared) if shared else {}) | config_keys(part)).items():
        default = own = convert(spec.default, spec.annotation)
        note = ""
        if key in given:
            default = convert(given[key], spec.annotation)
        if default != own:
            note = f"from {holder.__name__}'s slot; {spec.owner.__name__}'s own is {format_value(own)}"
        path, source = _join(node.path, key), node.sources[key]
        yield Entry(path, "value", node[key], source, describe(spec.annotation), default, note, spec.owner, spec.doc)
    for key, inner in getattr(part, "slots", {}).items():
        if isinstance(inner, SlotList):
            yield from _list_entries(node[key], inner, part, _join(node.path, key), node.sources[key])
        else:
            inner_given = {"NAME": inner.default, **inner.overrides} if isinstance(inner, Slot) else {}
            yield from _node_entries(node[key], inner, part, inner_given)


def _list_entries(nodes, place, holder, path, source):
    names, default = [node.NAME for node in nodes], [entry["NAME"] for entry in place.default]
    kind = f"list of {place.registry.slot} parts"
    yield Entry(path, "list", names, source, kind, default, "", holder, "")
    for number, node in enumerate(nodes):
        given = place.default[number] if source == "default" else {}
        yield from _node_entries(node, Slot(place.registry), holder, given)


def _join(path, key):
    return f"{path}.{key}".lstrip(".")


def select(entries, keys):
    """The entries that dotted keys name, each with all that is below it.

    Args:
        entries: what :func:`explain` returned.
        keys: such as ["SEED", "MODEL.RPN.MATCHER", "TRANSFORMS.TRAIN.0"].

    Returns:
        for each key a list of entries.

    Raises:
        UserError: there is no such key; the message names the nearest.
    """
    return [_select(entries, key) for key in keys]


def _select(entries, key):
    path = key.removesuffix(".NAME")
    found = [entry for entry in entries if f"{entry.path}.".startswith(f"{path}.")]
    if found and found[0].path == path and (path == key or found[0].kind == "part"):
        return found if path == key else found[:1]
    paths = [entry.path for entry in entries]
    *above, wrong = key.split(".")
    names = {path: path.rpartition(".")[2] for path in paths}
    close = difflib.get_close_matches(wrong.upper(), set(names.values()), n=1)
    near = difflib.get_close_matches(key.upper(), [path for path in paths if names[path] in close], n=3, cutoff=0)
    if near:
        raise UserError(f"there is no key {key}; did you mean {' or '.join(near)}?")
    while above and ".".join(above) not in paths:
        *above, wrong = above
    start = "".join(f"{name}." for name in above)
    level = {path.removeprefix(start).split(".")[0] for path in paths if path.startswith(start)}
    raise UserError(f"there is no key {key}: {start.rstrip('.') or 'the config'} has no {wrong}{suggest(wrong, level)}")


def format_tree(entries, width=None):
    """A line for each entry: what it is, which layer set it, and, where that is not "default", the default.

    Args:
        entries: some that stand together in the tree.
        width: longest line; None takes the terminal's.
    """
    width = width or shutil.get_terminal_size((120, 24)).columns
    top = entries[0].path.count(".")
    rows = []
    for entry in entries:
        depth = entry.path.count(".") - top
        name = entry.path if depth == 0 else entry.path.rpartition(".")[2]
        value = "" if entry.kind == "section" else ellipsize(format_value(entry.value), 40)
        default = f"  (default {ellipsize(format_value(entry.default), 24)})" if _is_changed(entry) else ""
        rows.append((f"{'  ' * depth}{name}", value, f"{entry.source}{default}"))
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(ellipsize(f"{a:<{first}}  {b:<{second}}  {c}".rstrip(), width) for a, b, c in rows)


def _is_changed(entry):
    return entry.source not in ("", "default") and entry.default is not None and entry.value != entry.default


def format_details(entry):
    """All that is known of an entry, some lines of text."""
    head = entry.path if entry.kind == "section" else f"{entry.path}: {format_value(entry.value)}"
    facts = {"type": entry.type}
    if entry.default is not None or entry.kind == "value":
        facts["default"] = format_value(entry.default) + (f" ({entry.note})" if entry.note else "")
    facts |= {
        "set by": entry.source,
        "owner": f"{entry.owner.__name__}, {relative_location(where_defined(entry.owner))}",
    }
    about = textwrap.wrap(entry.doc, 110, initial_indent="    ", subsequent_indent="    ")
    return "\n".join([head, *about, *(f"    {name:<9}{text}" for name, text in facts.items() if text)])


def format_selection(entries):
    """What one key shows: all of a value, or of a node and its values; of a node that holds others a line each."""
    nodes = [entry for entry in entries if entry.kind != "value"]
    if len(nodes) > 1 or any(entry.kind == "list" for entry in nodes):
        return format_tree(entries)
    return "\n".join(map(format_details, entries))


def format_difference(one, other):
    """What differs between two configs by meaning, each value with the layer that set it; "" if nothing does.

    Of keys that only one of them has, those that a layer set are shown: the others come with another part's NAME.

    Args:
        one: entries, as :func:`explain` returned them.
        other: the same of another config.
    """
    sides = [{entry.path: entry for entry in entries if entry.kind != "section"} for entries in (one, other)]
    lines = []
    for path in dict.fromkeys([*sides[0], *sides[1]]):
        pair = [side.get(path) for side in sides]
        if path.rpartition(".")[2].isdigit():  # its NAME stands in the list's line
            continue
        if None in pair and max(pair, key=bool).source == "default":
            continue
        if None not in pair and pair[0].value == pair[1].value:
            continue
        texts = [format_value(entry.value) if entry else "no such key" for entry in pair]
        width = max(map(len, texts)) if max(map(len, texts)) < 60 else 0
        sources = [f"  ({entry.source})" if entry else "" for entry in pair]
        lines.append(path)
        lines += [f"  {sign} {text:<{width}}{source}" for sign, text, source in zip("-+", texts, sources, strict=True)]
    return "\n".join(line.rstrip() for line in lines)


def ellipsize(text, length):
    """A text, or as much of it as fits.

    >>> cut("abcdefgh", 6)
    'abc...'
    """
    return text if len(text) <= length else text[: length - 3] + "..."


def relative_location(place):
    """A "file:line" as it is shortest from here."""
    near = os.path.relpath(place)
    return place if near.startswith("..") else near
