"""YAML as a config wants it: safe, no key twice, and numbers and words read as YAML 1.2 does.

PyYAML follows YAML 1.1: there `1e-3` is a string, `no` is false and `010` is eight. Here `1e-3` is a number, only
true and false are booleans, and a key that stands twice in a section is an error (PyYAML drops the first).
"""

import re

import yaml

from detlite.errors import UserError

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
    yaml_implicit_resolvers = {}

    def construct_section(self, node):
        section = Section()
        yield section
        lines = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is not a key", key_node.start_mark)
            if key in lines:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key} stands twice in this section, first in line {lines[key]}", key_node.start_mark
                )
            lines[key] = line
        section.lines = lines
        section.update(self.construct_mapping(node, deep=True))


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_section)
for _tag, _pattern, _first in _NUMBERS_AND_WORDS:
    _Loader.add_implicit_resolver(_tag, re.compile(f"^({_pattern})$"), list(_first))
    _Dumper.add_implicit_resolver(_tag, re.compile(f"^({_pattern})$"), list(_first))


def parse_yaml(text, where):
    """The value that a YAML text stands for.

    Args:
        text: the text.
        where: its file, or "command line", for messages.

    Raises:
        UserError: it is not YAML, asks for a Python object, or has a key twice.

    >>> parse_yaml("{LR: 1e-3, NAMES: [no, yes]}", "here")
    {'LR': 0.001, 'NAMES': ['no', 'yes']}
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UserError(f"{where}:{mark.line + 1}: not valid here: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


def format_yaml(value):
    """A YAML text that :func:`parse_yaml` turns back into the same plain dicts, lists and scalars."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
