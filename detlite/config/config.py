"""The finished config: fvcore's CfgNode, frozen for good."""

from fvcore.common.config import CfgNode

from detlite.config.yaml import format_yaml


def _refuse(self, *args, **kwargs):
    copy = "detlite.config.override(cfg, {'KEY': value}) for a changed copy"
    raise AttributeError(f"a loaded config is read-only; use load_config(path, opts=['KEY', 'VALUE']), or {copy}")


class ReadOnlyList(list):
    """A list that cannot be changed."""

    append = extend = insert = remove = pop = clear = sort = reverse = _refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse

    def __reduce__(self):
        return ReadOnlyList, (list(self),)


class Config(CfgNode):
    """A frozen node of the config tree: ``cfg.MODEL.RPN.MATCHER.FOREGROUND_IOU``.

    Attributes:
        path: the node's dotted key, such as "MODEL.RPN.MATCHER".
        sources: for each value, and each list of parts as a whole, the layer that set it: "default", "file:line" or
            "command line".
    """

    def __init__(self, values, path, sources, layers=()):
        super().__init__()
        dict.update(self, values)
        self.__dict__.update(path=path, sources=sources, layers=layers)
        self.__dict__[CfgNode.IMMUTABLE] = True

    defrost = update = pop = popitem = clear = setdefault = _refuse
    merge_from_file = merge_from_list = merge_from_other_cfg = _refuse
    __setattr__ = __setitem__ = __delitem__ = __delattr__ = __ior__ = _refuse

    def __reduce__(self):
        return Config, (dict(self), self.path, self.sources, self.layers)

    def plain(self):
        """Return the tree as plain dicts, lists and scalars."""
        return _plain(self)

    def dump(self):
        """Format the tree as YAML text, from which ``load_config`` gives an equal tree."""
        return format_yaml(self.plain())


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def join_path(path, key):
    """Return the dotted key of a key in the node at a path, which is "" at the top."""
    return f"{path}.{key}".lstrip(".")
