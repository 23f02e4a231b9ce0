"""YAML as a config wants it: safe, no key twice, and numbers and words read as YAML 1.2 does.

PyYAML follows YAML 1.1: there `1e-3` is a string, `no` is false and `010` is eight. Here `1e-3` is a number, only
true and false are booleans, and a key that stands twice in a section is an error (PyYAML drops the first).
"""

import re

import yaml

from detlite.errors import UserError, shortened

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
    """Of YAML's types only those that a config can hold."""

    yaml_implicit_resolvers = {}
    yaml_constructors = {}

    def construct_scalar_type(self, node):
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        try:
            return getattr(self, f"construct_yaml_{kind}")(node)
        except (KeyError, ValueError):
            raise _refusal(f"{shortened(node.value)} cannot be read as {kind}", node) from None

    def refuse_type(self, node):
        raise _refusal(f"{node.tag}: a config holds no such type", node)

    def construct_section(self, node):
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
                raise _refusal("a config has no merge keys (<<); _BASE_ names a file to start from", key_node)
            if key in lines:
                raise _refusal(f"{key} stands twice in this section, first in line {lines[key]}", key_node)
            lines[key] = key_node.start_mark.line + 1
        section.lines = lines
        section.update(self.construct_mapping(node, deep=True))


def _refusal(problem, node):
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True

    def represent_text(self, text):
        style = None if text.isprintable() else '"'  # odd line ends are safe as escapes only
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_multi_representer(list, _Dumper.represent_list)  # read-only ones
_Loader.add_constructor(None, _Loader.refuse_type)
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_section)
_Loader.add_constructor("tag:yaml.org,2002:seq", yaml.SafeLoader.construct_yaml_seq)
for _kind in ("str", "int", "float", "bool", "null"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_scalar_type)
for _tag, _pattern, _first in _NUMBERS_AND_WORDS:
    _Loader.add_implicit_resolver(_tag, re.compile(f"^({_pattern})$"), list(_first))
    _Dumper.add_implicit_resolver(_tag, re.compile(f"^({_pattern})$"), list(_first))


def parse_yaml(text, where):
    """The value that a YAML text stands for.

    Args:
        text: the text.
        where: its file, or "command line", for messages; a line's number is added if there are several.

    Raises:
        UserError: it is not YAML, asks for a type that no config holds, or has a key twice.

    >>> parse_yaml("{LR: 1e-3, NAMES: [no, yes]}", "here")
    {'LR': 0.001, 'NAMES': ['no', 'yes']}
    """
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
    """A YAML text that :func:`parse_yaml` turns back into the same plain dicts, lists and scalars."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def format_value(value):
    """One value as a config's line has it.

    >>> format_value([0.5, "cat", None, ""])
    "[0.5, cat, null, '']"
    """
    how = {"sort_keys": False, "default_flow_style": True, "allow_unicode": True, "width": float("inf")}
    text = yaml.dump([value], Dumper=_Dumper, **how)
    return text.strip()[1:-1]
