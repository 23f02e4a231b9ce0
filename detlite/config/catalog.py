"""Every slot and every part, as text for a terminal and as the page docs/parts.md: read from the code alone."""

import inspect
import textwrap
from pathlib import Path

from detlite.config.defaults import Root
from detlite.config.explain import relative_location
from detlite.config.yaml import format_value
from detlite.errors import UserError, suggest
from detlite.parts import Slot, SlotList
from detlite.registry import registries
from detlite.signature import config_keys, convert, describe, first_sentence, where_defined

PACKAGE = Path(__file__).parents[1]
HEAD = """\
# Sections and parts

Every key that a config may set, by section and by part. Made from signatures and docstrings by
`python tools/explain.py --parts > docs/parts.md`, not by hand. `python tools/explain.py --list SLOT` lists your own
parts, too.

"""


def sections():
    """The sections of the tree that have no NAME, and what all detectors share: {path: class}."""
    found, seen = {"": Root}, set()

    def walk(part, path):
        if part in seen:
            return
        seen.add(part)
        for key, place in getattr(part, "slots", {}).items():
            inner_path = f"{path}.{key}".lstrip(".")
            section = getattr(place, "shared", None) if isinstance(place, (Slot, SlotList)) else place
            if section:
                found.setdefault(inner_path, section)
            for inner in map(place.registry.get, place.registry) if hasattr(place, "registry") else [place]:
                walk(inner, inner_path)

    walk(Root, "")
    return found


def rows(part):
    """What a config may set on a part or section, its own keys first, then the parts that it holds.

    Returns:
        list of (key, type, default, meaning), texts.
    """
    table = [
        (key, describe(spec.annotation), format_value(convert(spec.default, spec.annotation)), spec.doc)
        for key, spec in config_keys(part).items()
    ]
    for key, place in getattr(part, "slots", {}).items():
        if isinstance(place, SlotList):
            entries = [_named(entry["NAME"], entry) for entry in place.default]
            table.append((key, f"list of {place.registry.slot} parts", f"[{', '.join(entries)}]", ""))
        elif isinstance(place, Slot):
            table.append((key, f"{place.registry.slot} part", _named(place.default, place.overrides), ""))
        else:
            table.append((key, "a section", "", first_sentence(place)))
    return table


def _named(name, values):
    return f"{{{', '.join(f'{key}: {format_value(value)}' for key, value in ({'NAME': name} | values).items())}}}"


def format_slots():
    """A paragraph for each slot: the names of its parts."""
    slots = registries()
    width = max(map(len, slots)) + 2
    texts = {slot: ", ".join(registry) or "(none is built in)" for slot, registry in slots.items()}
    return "\n".join(_hang(f"{slot:<{width}}{text}", width) for slot, text in texts.items())


def format_parts(slot):
    """A slot's contract and its parts, the user's own included, with their keys.

    Args:
        slot: such as "MATCHER", in any case.

    Raises:
        UserError: there is no such slot.
    """
    slots = registries()
    if slot.upper() not in slots:
        raise UserError(f"there is no slot {slot}{suggest(slot.upper(), slots)}")
    registry = slots[slot.upper()]
    lines = [_hang(f"{registry.slot}: {_contract(registry)}", 4)]
    for name in registry:
        part = registry.get(name)
        lines += ["", f"{name} ({relative_location(where_defined(part))})", _hang(f"    {first_sentence(part)}", 4)]
        table = rows(part)
        width = max((len(row[0]) for row in table), default=0)
        for key, kind, default, doc in table:
            lines.append(_hang(f"    {key:<{width}}  {kind}, default {default}{f': {doc}' if doc else ''}", width + 6))
    return "\n".join(line.rstrip() for line in lines)


def _hang(text, indent):
    return textwrap.fill(text, 118, subsequent_indent=" " * indent, break_on_hyphens=False)


def _contract(registry):
    return " ".join(registry.__doc__.split())


def parts_page():
    """docs/parts.md: the sections of the tree, then each slot with its contract and detlite's own parts."""
    text = HEAD + "## Sections without a NAME\n"
    for path, section in sections().items():
        if _is_ours(section):
            text += _part_text(path or "The top of the tree", section)
    for registry in registries().values():
        text += f"\n## {registry.slot}\n\n{_contract(registry)}\n"
        for name in registry:
            part = registry.get(name)
            if _is_ours(part):
                text += _part_text(name, part)
    return text.rstrip("\n")


def _is_ours(part):
    return part.__module__.startswith("detlite.")


def _part_text(title, part):
    file = Path(inspect.getsourcefile(part)).relative_to(PACKAGE.parent)
    text = f"\n### {title}\n\n`{file.as_posix()}`. {first_sentence(part)}\n"
    cells = [tuple(cell.replace("|", r"\|") for cell in row) for row in rows(part)]
    if cells:
        text += "\n| key | type | default | meaning |\n|---|---|---|---|\n"
        for key, kind, default, doc in cells:
            text += f"| `{key}` | {kind} | {f'`{default}`' if default else ''} | {doc} |\n"
    return text
