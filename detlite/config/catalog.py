"""Every slot and part as Markdown, for a terminal and for the page docs/parts.md."""

import re
from pathlib import Path

from detlite.config.config import join_path
from detlite.config.defaults import Root
from detlite.config.yaml import format_value
from detlite.errors import UserError, suggest
from detlite.parts import Slot, SlotList
from detlite.registry import registries
from detlite.signature import config_keys, describe_type, first_sentence, where_defined

HEAD = """\
# Sections and parts

Every key that a config may set, by section and by part. `python tools/explain.py --parts > docs/parts.md` generates
this page from signatures and docstrings; do not edit it. `python tools/explain.py --list SLOT` also lists custom parts.

## Sections without a NAME
"""


def sections():
    """Find the sections of the tree that have no NAME: {path: class}."""
    found, seen = {"": Root}, set()

    # Depth first through all parts that each slot can hold; the first path of a section counts.
    def walk(part, path):
        if part in seen:
            return
        seen.add(part)
        for key, slot in getattr(part, "slots", {}).items():
            inner_path = join_path(path, key)
            section, parts = slot, [slot]
            if isinstance(slot, (Slot, SlotList)):
                section = getattr(slot, "shared", None)
                parts = map(slot.registry.get, slot.registry)
            if section:
                found.setdefault(inner_path, section)
            if getattr(slot, "as_list", None):
                found.setdefault(join_path(inner_path, 0), slot.as_list.shared)
            for inner in parts:
                walk(inner, inner_path)

    walk(Root, "")
    return found


def rows(part):
    """List a part's keys, then its slots, as (key, type, default, meaning)."""
    table = []
    for key, spec in config_keys(part).items():
        table.append((key, describe_type(spec.annotation), format_value(spec.default), spec.doc))
    for key, slot in getattr(part, "slots", {}).items():
        if isinstance(slot, SlotList):
            entries = [_format_part(entry["NAME"], entry) for entry in slot.default]
            table.append((key, f"list of {slot.registry.slot} parts", f"[{', '.join(entries)}]", ""))
        elif isinstance(slot, Slot):
            kind = f"{slot.registry.slot} part, or a list of them" if slot.as_list else f"{slot.registry.slot} part"
            table.append((key, kind, _format_part(slot.default, slot.overrides), ""))
        else:
            table.append((key, "a section", "", first_sentence(slot)))
    return table


def _format_part(name, values):
    pairs = [f"{key}: {format_value(value)}" for key, value in {"NAME": name, **values}.items()]
    return "{" + ", ".join(pairs) + "}"


def format_slots():
    """Format a line for each slot: the names of its parts."""
    lines = [f"{slot}: {', '.join(registry) or '(none is built in)'}" for slot, registry in registries().items()]
    return "\n".join(lines)


def format_parts(slot):
    """Format a slot's contract and its parts, custom ones included. The case of ``slot`` does not matter."""
    slots = registries()
    if slot.upper() not in slots:
        raise UserError(f"there is no slot {slot}{suggest(slot.upper(), slots)}")
    return _slot_text(slots[slot.upper()], "")


def parts_page():
    """Format docs/parts.md: sections, then each slot's contract and built-in parts."""
    text = HEAD
    for path, section in sections().items():
        text += _part_text(path or "The top of the tree", section)
    return text + "\n" + "\n".join(_slot_text(registry, "detlite.") for registry in registries().values()).rstrip("\n")


def _slot_text(registry, package):
    """Format a slot with the parts whose modules are in a package."""
    text = f"## {registry.slot}\n\n{registry.contract}\n"
    for name in registry:
        if registry.get(name).__module__.startswith(package):
            text += _part_text(name, registry.get(name))
    return text


def _part_text(title, part):
    file = re.sub(r":\d+$", "", where_defined(part)).removeprefix(f"{Path(__file__).parents[2]}/")
    text = f"\n### {title}\n\n`{file}`. {first_sentence(part)}\n"
    table = rows(part)
    if table:
        text += "\n"
    for key, kind, default, doc in table:
        kind = f"{kind}, default `{default}`" if default else kind
        meaning = f": {doc}" if doc else ""
        text += f"- `{key}` ({kind}){meaning}\n"
    return text
