"""The JSON schema of a config, by which an editor completes, explains and checks its keys."""

import types
import typing

from detlite.config.defaults import Root
from detlite.parts import Slot, SlotList, node_keys
from detlite.signature import UNIONS, first_sentence

TYPES = {float: "number", int: "integer", bool: "boolean", str: "string", types.NoneType: "null"}


def config_schema():
    """Return the JSON schema (draft 7) of a config file, for the parts that are registered now.

    Each slot is a definition, and each part of a slot is another. A node with a NAME has the keys of that part. A node
    without one may rely on the NAME in _BASE_, so it has the keys of any part of its slot.
    """
    definitions = {}
    schema = _object(Root, definitions)
    schema["properties"]["_BASE_"] = {
        "description": "configs that this one changes: files, or names such as detlite:quickstart",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema, "definitions": definitions}


def _object(part, definitions, slot=None):
    """Return the schema of a section, or of a part in a slot: its keys with types, meanings and defaults."""
    properties = {"NAME": {}} if slot else {}
    for key, spec in node_keys(slot, part).items():
        properties[key] = {"description": spec.doc, **_value(spec.annotation)}
        if "inf" not in str(spec.default):  # JSON has no infinite number
            properties[key]["default"] = spec.default
    for key, inner in getattr(part, "slots", {}).items():
        properties[key] = _inner(inner, definitions)
    schema = {"description": first_sentence(part), "properties": properties, "additionalProperties": False}
    return schema if slot else {"type": ["object", "null"], **schema}


def _inner(slot, definitions):
    """Return the schema of what is in a slot: a section, a part or a list of parts."""
    if isinstance(slot, Slot):
        choices = [_slot(slot, definitions)]
        if slot.as_list:
            choices.append(_inner(slot.as_list, definitions))
        return {"anyOf": choices, "default": {"NAME": slot.default, **slot.overrides} if slot.default else {}}
    if isinstance(slot, SlotList):
        entry = _slot(slot, definitions)
        whole = {"type": "array", "items": {"allOf": [entry, {"required": ["NAME"]}]}}
        edited = {"type": "object", "propertyNames": {"pattern": "^[0-9]+$"}, "additionalProperties": entry}
        return {"anyOf": [whole, edited], "default": slot.default}
    return _object(slot, definitions)


def _slot(slot, definitions):
    """Return a reference to the definition of a slot's parts, and add the definition if it is new."""
    title = slot.registry.slot
    if slot.shared:
        title += f"+{slot.shared.__name__}"
    reference = {"$ref": f"#/definitions/{title}"}
    if title in definitions:
        return reference
    definitions[title] = {}  # there before the parts, which may have the same slot inside

    # A NAME decides the keys.
    cases, parts = [], []
    for name in slot.registry:
        definitions[f"{title}.{name}"] = _object(slot.registry.get(name), definitions, slot)
        parts.append({"$ref": f"#/definitions/{title}.{name}"})
        is_named = {"properties": {"NAME": {"const": name}}, "required": ["NAME"]}
        cases.append({"if": is_named, "then": parts[-1]})
    cases.append({"if": {"not": {"required": ["NAME"]}}, "then": {"anyOf": parts}})
    definitions[title] = {
        "description": slot.registry.contract,
        "type": ["object", "null"],
        "properties": {"NAME": {"enum": list(slot.registry)}},
        "allOf": cases,
    }
    return reference


def _value(annotation):
    """Return the schema of a value by its annotation."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in UNIONS:
        return {"anyOf": list(map(_value, arguments))}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": _value(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _value(arguments[1])}
    return {"type": TYPES[annotation]}
