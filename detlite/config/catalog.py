"""Every slot and part, as text for a terminal and as the page docs/parts.md."""

import inspect
import textwrap
from pathlib import Path

from detlite.config.config import join_path
from detlite.config.defaults import Root
from detlite.config.explain import relative_location
from detlite.config.yaml import format_value
from detlite.errors import UserError, suggest
from detlite.parts import Slot, SlotList
from detlite.registry import registries
from detlite.signature import config_keys, describe_type, first_sentence, where_defined

HEAD = """\
# Sections and parts

Every key that a config may set, by section and by part. `python tools/explain.py --parts > docs/parts.md` generates
this page from signatures and docstrings; do not edit it. `python tools/explain.py --list SLOT` also lists custom parts.

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
    """Format a paragraph for each slot: the names of its parts."""
    slots = registries()
    width = max(map(len, slots)) + 2
    names = {slot: ", ".join(registry) or "(none is built in)" for slot, registry in slots.items()}
    return "\n".join(_hang(f"{slot:<{width}}{text}", width) for slot, text in names.items())


def format_parts(slot):
    """Format a slot's contract and its parts, custom ones included, with their keys.

    The case of ``slot`` does not matter. Raises a UserError if there is no such slot.
    """
    slots = registries()
    registry = slots.get(slot.upper())
    if registry is None:
        raise UserError(f"there is no slot {slot}{suggest(slot.upper(), slots)}")

    # The contract, then each part's name and location, its first sentence and one line per key.
    lines = [_hang(f"{registry.slot}: {registry.contract}", 4)]
    for name in registry:
        part = registry.get(name)
        lines += ["", f"{name} ({relative_location(where_defined(part))})", _hang(f"    {first_sentence(part)}", 4)]
        table = rows(part)
        width = max((len(row[0]) for row in table), default=0)
        for key, kind, default, doc in table:
            meaning = f": {doc}" if doc else ""
            lines.append(_hang(f"    {key:<{width}}  {kind}, default {default}{meaning}", width + 6))
    return "\n".join(line.rstrip() for line in lines)


def _hang(text, indent):
    return textwrap.fill(text, 118, subsequent_indent=" " * indent, break_on_hyphens=False)


def parts_page():
    """Format docs/parts.md: sections, then each slot's contract and built-in parts."""
    text = HEAD + "## Sections without a NAME\n"
    for path, section in sections().items():
        text += _part_text(path or "The top of the tree", section)
    for registry in registries().values():
        text += f"\n## {registry.slot}\n\n{registry.contract}\n"
        for name in registry:
            text += _part_text(name, registry.get(name))
    return text.rstrip("\n")


def _part_text(title, part):
    if not part.__module__.startswith("detlite."):  # a custom part
        return ""
    file = Path(inspect.getsourcefile(part)).relative_to(Path(__file__).parents[2])
    text = f"\n### {title}\n\n`{file.as_posix()}`. {first_sentence(part)}\n"
    table = rows(part)
    if table:
        text += "\n| key | type | default | meaning |\n|---|---|---|---|\n"
    for row in table:
        key, kind, default, doc = [cell.replace("|", r"\|") for cell in row]
        default = f"`{default}`" if default else ""
        text += f"| `{key}` | {kind} | {default} | {doc} |\n"
    return text
