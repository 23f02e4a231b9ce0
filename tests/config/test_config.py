"""A loaded config is read-only for good, wherever it goes."""

import copy
import multiprocessing
import operator
import pickle

import pytest
from fvcore.common.config import CfgNode

from detlite.config import Config, load_config, override
from detlite.config.config import ReadOnlyList
from detlite.errors import UserError


@pytest.fixture(scope="module")
def cfg():
    return load_config(opts=["MODEL.CLASSES", "[cat, dog]", "TRANSFORMS.TRAIN.0.SIZE", "[240, 480]"])


MUTATIONS = {
    "setattr": lambda cfg: setattr(cfg, "SEED", 1),
    "setattr of a new key": lambda cfg: setattr(cfg, "NEW", 1),
    "delattr": lambda cfg: delattr(cfg, "SEED"),
    "setitem": lambda cfg: cfg.__setitem__("SEED", 1),
    "delitem": lambda cfg: cfg.__delitem__("SEED"),
    "update": lambda cfg: cfg.update(SEED=1),
    "|=": lambda cfg: cfg.__ior__({"SEED": 1}),
    "setdefault": lambda cfg: cfg.setdefault("NEW", 1),
    "pop": lambda cfg: cfg.pop("SEED"),
    "popitem": lambda cfg: cfg.popitem(),
    "clear": lambda cfg: cfg.clear(),
    "merge_from_list": lambda cfg: cfg.merge_from_list(["SEED", 1]),
    "merge_from_other_cfg": lambda cfg: cfg.merge_from_other_cfg(CfgNode({"SEED": 1})),
    "merge_from_file": lambda cfg: cfg.merge_from_file("x.yaml"),
    "defrost": lambda cfg: cfg.defrost(),
    "nested setattr": lambda cfg: setattr(cfg.MODEL.RPN.MATCHER, "KEEP_BEST", False),
    "setattr in a list's node": lambda cfg: setattr(cfg.TRANSFORMS.TRAIN[0], "SIZE", 1),
}
LIST_MUTATIONS = {
    "append": lambda values: values.append(1),
    "extend": lambda values: values.extend([1]),
    "insert": lambda values: values.insert(0, 1),
    "remove": lambda values: values.remove(values[0]),
    "pop": lambda values: values.pop(),
    "clear": lambda values: values.clear(),
    "sort": lambda values: values.sort(),
    "reverse": lambda values: values.reverse(),
    "setitem": lambda values: values.__setitem__(0, 1),
    "delitem": lambda values: values.__delitem__(0),
    "slice": lambda values: values.__setitem__(slice(None), []),
    "+=": lambda values: values.__iadd__([1]),
    "*=": lambda values: values.__imul__(2),
}
COPIES = {
    "itself": lambda cfg: cfg,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "clone": lambda cfg: cfg.clone(),
    "pickle": lambda cfg: pickle.loads(pickle.dumps(cfg)),
}


@pytest.fixture(scope="module")
def copies(cfg):
    return [duplicate(cfg) for duplicate in COPIES.values()]


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)
def test_nothing_changes_a_config_or_a_copy_of_it(copies, mutate):
    before = copies[0].plain()
    for config in copies:
        with pytest.raises(AttributeError, match="read-only"):
            mutate(config)
        assert config.plain() == before


@pytest.mark.parametrize("mutate", LIST_MUTATIONS.values(), ids=LIST_MUTATIONS)
def test_nothing_changes_a_list_in_a_config_or_in_a_copy_of_it(copies, mutate):
    before = copies[0].plain()
    for config in copies:
        for values in (config.MODEL.CLASSES, config.TRANSFORMS.TRAIN, config.TRANSFORMS.TRAIN[0].SIZE):
            with pytest.raises(AttributeError, match="read-only"):
                mutate(values)
        assert config.plain() == before


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_a_copy_is_equal_and_a_config_with_paths_sources_and_layers(cfg, duplicate):
    config = duplicate(cfg)
    assert config == cfg
    assert isinstance(config.MODEL.RPN, Config) and isinstance(config.TRANSFORMS.TRAIN, ReadOnlyList)
    assert config.MODEL.RPN.path == "MODEL.RPN"
    assert config.MODEL.sources["CLASSES"] == "command line"
    assert override(config, {"SEED": 3}) == override(cfg, {"SEED": 3})


def test_freezing_it_again_changes_nothing(cfg):
    cfg.freeze()
    assert cfg.is_frozen()
    with pytest.raises(AttributeError):
        cfg.SEED = 1


def test_the_refusal_says_how_to_change_a_config(cfg):
    with pytest.raises(AttributeError, match=r"load_config\(path, opts=\['KEY', 'VALUE'\]\).*override"):
        cfg.SEED = 1


def test_a_plain_copy_may_be_changed_without_changing_the_config(cfg):
    plain = cfg.plain()
    plain["MODEL"]["CLASSES"].append("bird")
    plain["TRANSFORMS"]["TRAIN"][0]["SIZE"] = 1
    assert type(plain["MODEL"]) is dict and type(plain["TRANSFORMS"]["TRAIN"]) is list
    assert list(cfg.MODEL.CLASSES) == ["cat", "dog"]
    assert list(cfg.TRANSFORMS.TRAIN[0].SIZE) == [240, 480]


def test_override_gives_a_changed_copy_and_leaves_the_config(cfg):
    changed = override(cfg, {"MODEL.CLASSES": ["bird"], "TRANSFORMS.TRAIN.1.P": 1}, "the data set")
    assert list(changed.MODEL.CLASSES) == ["bird"]
    assert changed.MODEL.sources["CLASSES"] == "the data set"
    assert changed.TRANSFORMS.TRAIN[1].P == 1.0
    assert list(cfg.MODEL.CLASSES) == ["cat", "dog"]


def test_override_refuses_what_load_config_refuses(cfg):
    with pytest.raises(UserError, match=r"^the data set: MODEL.CLASES: FasterRCNN has no key CLASES; did you mean"):
        override(cfg, {"MODEL.CLASES": []}, "the data set")


def test_a_spawned_process_gets_an_equal_read_only_config(cfg):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(Config.dump, (cfg,)) == cfg.dump()
        with pytest.raises(AttributeError, match="read-only"):
            pool.apply(setattr, (cfg, "SEED", 1))
        assert pool.apply(operator.itemgetter("SEED"), (cfg,)) == cfg.SEED
