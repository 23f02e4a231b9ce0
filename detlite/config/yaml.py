"""YAML for configs: safe, no duplicate keys, numbers and words as in YAML 1.2.

PyYAML follows YAML 1.1, in which `1e-3` is a string, `no` is false and `010` is eight. Here `1e-3` is a number, only
true and false are booleans, and a duplicate key in a section is an error (PyYAML drops the first).
"""

import re

import yaml

from detlite.errors import UserError, shortened
from detlite.files import TEXT_LIMIT

# (tag, pattern of the whole text, its possible first characters)
_NUMBERS_AND_WORDS = [
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
]


class Section(dict):
    """A mapping read from YAML that remembers the line of each key (``lines``)."""

    lines = {}


class _Loader(yaml.SafeLoader):
    """A loader for the types that a config can hold, and no others."""

    yaml_implicit_resolvers = {}
    yaml_constructors = {}

    def compose_node(self, parent, index):
        """Compose a node, and refuse aliases (*name): a few lines could stand for billions of values."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.constructor.ConstructorError(None, None, "a config has no aliases (*name)", mark)
        return super().compose_node(parent, index)

    def construct_scalar_type(self, node):
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        try:
            return getattr(self, f"construct_yaml_{kind}")(node)
        except (IndexError, KeyError, ValueError):
            raise _refusal(f"{shortened(node.value)} cannot be read as {kind}", node) from None

    def refuse_type(self, node):
        raise _refusal(f"{node.tag}: a config cannot hold this type", node)

    def construct_section(self, node):
        # PyYAML constructs a mapping in two steps: the empty object, and later its items.
        section = Section()
        yield section
        if not isinstance(node, yaml.MappingNode):
            raise _refusal(f"{shortened(node.value)} is not a section", node)
        lines = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise _refusal(f"{shortened(key)} is not a key", key_node)
            if key == "<<":
                raise _refusal("a config has no merge keys (<<); name a file to start from in _BASE_", key_node)
            if key in lines:
                raise _refusal(f"{key} is set twice in this section, first in line {lines[key]}", key_node)
            lines[key] = key_node.start_mark.line + 1
        section.lines = lines
        section.update(self.construct_mapping(node, deep=True))


def _refusal(problem, node):
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True

    def represent_text(self, text):
        style = None if text.isprintable() else '"'  # unusual line ends survive only as escapes
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_multi_representer(list, _Dumper.represent_list)  # also read-only lists
_Loader.add_constructor(None, _Loader.refuse_type)  # for all other tags
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_section)
_Loader.add_constructor("tag:yaml.org,2002:seq", yaml.SafeLoader.construct_yaml_seq)
for _kind in ("str", "int", "float", "bool", "null"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_scalar_type)
for _tag, _pattern, _first in _NUMBERS_AND_WORDS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"^({_pattern})$"), list(_first))


def parse_yaml(text, where):
    """Parse a YAML text, or raise a UserError.

    ``where`` is its file, or "command line", for messages; a line number is added if there are several lines.

    >>> parse_yaml("{LR: 1e-3, NAMES: [no, yes]}", "here")
    {'LR': 0.001, 'NAMES': ['no', 'yes']}
    """
    if len(text) > TEXT_LIMIT:
        raise UserError(f"{where}: {len(text):,} characters, expected at most {TEXT_LIMIT:,}")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.constructor.ConstructorError as error:
        line, problem = error.problem_mark.line, error.problem
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark or error.context_mark).line
        problem = "not valid YAML: " + ": ".join(filter(None, [error.context, error.problem]))
        if "'\\t'" in problem:
            problem += "; indent with spaces"
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        problem = f"not valid YAML: the character {chr(error.character)!a}"
    except RecursionError:
        line, problem = 0, "nested too deeply"
    at = f"{where}:{line + 1}" if "\n" in text else where
    raise UserError(f"{at}: {problem}")


def format_yaml(value):
    """Format dicts, lists and scalars as YAML that :func:`parse_yaml` reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def format_value(value):
    """Format one value as YAML on a single line."""
    one_line = {"default_flow_style": True, "width": float("inf")}
    text = yaml.dump([value], Dumper=_Dumper, sort_keys=False, allow_unicode=True, **one_line)
    return text.strip()[1:-1]  # without the brackets of the list
