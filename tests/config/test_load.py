"""Config files, the files they start from, and the command line."""

from pathlib import Path

import pytest

from detlite.config import load_config
from detlite.config.yaml import parse_yaml
from detlite.errors import UserError

CONFIGS = sorted(
    path
    for path in (Path(__file__).parents[2] / "configs").glob("*.yaml")
    if path.name not in ("augmentation.yaml", "bccd_swaps.yaml", "swaps.yaml")  # variants of a config, no configs
)


def refusal(path=None, opts=(), imports=()):
    """The message with which a config is refused."""
    with pytest.raises(UserError) as caught:
        load_config(path, opts, imports)
    return str(caught.value)


def test_the_default_tree_is_the_classic_detector():
    model = load_config().MODEL
    assert (model.NAME, model.BACKBONE.NAME, model.BACKBONE.DEPTH) == ("FasterRCNN", "VGG", 16)
    assert len(model.CLASSES) == 20
    # Ren et al. 2015: 0.7 and 0.3 in the first stage, 0.5 in the second
    assert (model.RPN.MATCHER.FOREGROUND_IOU, model.RPN.MATCHER.BACKGROUND_IOU, model.RPN.MATCHER.KEEP_BEST) == (
        0.7,
        0.3,
        True,
    )
    assert (model.ROI_HEADS.MATCHER.FOREGROUND_IOU, model.ROI_HEADS.MATCHER.KEEP_BEST) == (0.5, False)


@pytest.mark.parametrize(
    "key",
    """MODEL.NAME MODEL.DEVICE MODEL.WEIGHTS MODEL.CLASSES MODEL.BACKBONE MODEL.RPN.ANCHOR_GENERATOR MODEL.RPN.HEAD
    MODEL.RPN.MATCHER MODEL.RPN.SAMPLER MODEL.RPN.BOX_CODER MODEL.RPN.BOX_LOSS MODEL.RPN.CLASS_LOSS MODEL.RPN.NMS
    MODEL.ROI_HEADS.POOLER MODEL.ROI_HEADS.BOX_HEAD MODEL.ROI_HEADS.MATCHER MODEL.ROI_HEADS.SAMPLER
    MODEL.ROI_HEADS.BOX_CODER MODEL.ROI_HEADS.BOX_LOSS MODEL.ROI_HEADS.CLASS_LOSS MODEL.ROI_HEADS.NMS DATASETS.TRAIN
    DATASETS.TEST
    TRANSFORMS.TRAIN TRANSFORMS.TEST SOLVER.OPTIMIZER SOLVER.LR_SCHEDULER SOLVER.BATCH_SIZE SOLVER.MAX_ITER
    SOLVER.CHECKPOINT_PERIOD EVALUATION HOOKS IMPORTS OUTPUT_DIR SEED""".split(),
)
def test_the_names_that_others_rely_on_are_in_the_tree(key):
    node = load_config()
    for name in key.split("."):
        node = node[name]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_of_ours_loads_and_its_resolved_tree_loads_back_to_itself(path, tmp_path):
    cfg = load_config(path)
    written = tmp_path / "config.yaml"
    written.write_text(cfg.dump(), encoding="utf-8")
    again = load_config(written)
    assert again == cfg
    assert again.dump() == cfg.dump()


def test_a_tree_of_odd_words_loads_back_to_itself(tmp_path):
    classes = ["no", "1e3", "null", "010", "ü", "", "true", "~", "<<", "a: b", "- x", "#", "x" * 300, "a\nb", "1", "😀"]
    cfg = load_config(opts=["MODEL.CLASSES", classes, "MODEL.WEIGHTS", "null", "OUTPUT_DIR", "1e3"])
    written = tmp_path / "config.yaml"
    written.write_text(cfg.dump(), encoding="utf-8")
    assert list(load_config(written).MODEL.CLASSES) == classes
    assert load_config(written) == cfg


def test_defaults_bases_file_and_command_line_win_in_this_order(write):
    write("grand.yaml", "{SEED: 1, OUTPUT_DIR: a, MODEL: {WEIGHTS: a, DEVICE: cpu}, SOLVER: {MAX_ITER: 11}}")
    write("base.yaml", "{_BASE_: grand.yaml, OUTPUT_DIR: b, MODEL: {WEIGHTS: b}, SOLVER: {BATCH_SIZE: 4}}")
    path = write("own.yaml", "{_BASE_: base.yaml, OUTPUT_DIR: c, MODEL: {WEIGHTS: c}}")
    cfg = load_config(path, ["MODEL.WEIGHTS", "d"])
    assert (cfg.SOLVER.LOG_PERIOD, cfg.SEED, cfg.SOLVER.BATCH_SIZE) == (load_config().SOLVER.LOG_PERIOD, 1, 4)
    assert (cfg.MODEL.DEVICE, cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS) == ("cpu", 11, "c", "d")


def test_sources_name_the_layer_and_line_that_set_a_key(write):
    grand = write("grand.yaml", "MODEL:\n  DEVICE: cpu\n  RPN:\n    MATCHER: {KEEP_BEST: false}\n")
    base = write("base.yaml", "_BASE_: grand.yaml\nSOLVER:\n  MAX_ITER: 1\n")
    path = write("own.yaml", "_BASE_: [base.yaml]\n\nSEED: 1\nTRANSFORMS:\n  TEST:\n    - NAME: ResizeShortSide\n")
    cfg = load_config(path, ["OUTPUT_DIR", "x", "TRANSFORMS.TEST.0.SIZE", "9"])
    assert cfg.MODEL.sources["WEIGHTS"] == "default"
    assert cfg.MODEL.sources["DEVICE"] == f"{grand}:2"
    assert cfg.MODEL.RPN.MATCHER.sources["KEEP_BEST"] == f"{grand}:4"
    assert cfg.SOLVER.sources["MAX_ITER"] == f"{base}:3"
    assert cfg.sources["SEED"] == f"{path}:3"
    assert cfg.sources["OUTPUT_DIR"] == "command line"
    assert cfg.TRANSFORMS.TEST[0].sources == {
        "NAME": f"{path}:6",
        "SIZE": "command line",
        "MAX_SIZE": "default",
    }


def test_of_several_bases_the_later_one_wins(write):
    write("a.yaml", "{SEED: 1, OUTPUT_DIR: a}")
    write("b.yaml", "{SEED: 2}")
    cfg = load_config(write("own.yaml", "_BASE_: [a.yaml, b.yaml]"))
    assert (cfg.SEED, cfg.OUTPUT_DIR) == (2, "a")


def test_a_base_that_two_bases_share_counts_once_below_both(write):
    write("common.yaml", "{SEED: 1, OUTPUT_DIR: common, MODEL: {BACKBONE: {NAME: VGG, DEPTH: 11}}}")
    write("left.yaml", "{_BASE_: common.yaml, SEED: 2, MODEL: {BACKBONE: {DEPTH: 13}}}")
    write("right.yaml", "{_BASE_: ./common.yaml, OUTPUT_DIR: right}")
    cfg = load_config(write("own.yaml", "_BASE_: [left.yaml, right.yaml]"))
    assert (cfg.SEED, cfg.OUTPUT_DIR, cfg.MODEL.BACKBONE.DEPTH) == (2, "right", 13)


def test_each_file_of_many_shared_bases_is_read_once(write, monkeypatch):
    for level in range(9):
        for side in "ab":
            write(f"{side}{level}.yaml", f"_BASE_: [a{level + 1}.yaml, b{level + 1}.yaml]")
    write("a9.yaml", "SEED: 5")
    write("b9.yaml", "{}")
    read = []
    monkeypatch.setattr(
        "detlite.config.load.parse_yaml", lambda text, path: read.append(path) or parse_yaml(text, path)
    )
    assert load_config(write("own.yaml", "_BASE_: [a0.yaml, b0.yaml]")).SEED == 5
    assert len(read) == len(set(read)) == 21


def test_a_long_chain_of_bases_is_refused(write):
    for number in range(1000):
        write(f"{number}.yaml", f"_BASE_: {number + 1}.yaml")
    assert "51.yaml: _BASE_ of " in refusal(write("own.yaml", "_BASE_: 1.yaml"))


def test_the_text_of_a_base_that_is_no_config_is_not_in_the_message(write):
    write("secret", "root:$6$hash:19000:0:99999:7:::\nadmin:$6$other:19000:0:99999:7:::\n")
    message = refusal(write("own.yaml", "_BASE_: secret"))
    assert "secret: a config file is a mapping of sections such as MODEL, but this file is not (_BASE_ of " in message
    assert "$6$" not in message


def test_a_base_is_relative_to_the_file_that_names_it(write, tmp_path):
    write("bases/deep/grand.yaml", "SEED: 5")
    write("bases/base.yaml", "_BASE_: deep/grand.yaml")
    assert load_config(write("runs/own.yaml", "_BASE_: ../bases/base.yaml")).SEED == 5
    assert load_config(write("own.yaml", f"_BASE_: {tmp_path / 'bases' / 'base.yaml'}")).SEED == 5


def test_circular_bases_are_refused(write):
    first = write("a.yaml", "_BASE_: b.yaml")
    write("b.yaml", "_BASE_: sub/../c.yaml")
    write("sub/x.yaml", "")
    write("c.yaml", "_BASE_: a.yaml")
    message = refusal(first)
    assert "_BASE_ is circular: " in message
    assert [Path(file).name for file in message.split("circular: ")[1].split(" -> ")] == [
        "a.yaml",
        "b.yaml",
        "c.yaml",
        "a.yaml",
    ]
    assert "circular" in refusal(write("self.yaml", "_BASE_: self.yaml"))


@pytest.mark.parametrize("value", ["5", "", "[1]", "{a: b}", "[[a.yaml]]", "true"])
def test_a_base_that_is_no_file_name_is_refused_with_its_line(write, value):
    path = write("own.yaml", f"SEED: 1\n_BASE_: {value}\n")
    assert refusal(path).startswith(f"{path}:2: _BASE_: expected a file or a list of files, got ")


def test_a_base_that_is_missing_is_named_with_the_file_that_names_it_and_the_nearest(write):
    write("faster_rcnn.yaml", "")
    path = write("own.yaml", "_BASE_: faster_rcn.yaml")
    message = refusal(path)
    assert message.startswith(f"{path.parent / 'faster_rcn.yaml'}: No such file or directory (_BASE_ of {path}); ")
    assert f"did you mean {path.parent}/faster_rcnn.yaml?" in message


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "MODEL:\nSOLVER: ~\n"])
def test_a_file_without_values_is_the_default_tree(write, text):
    assert load_config(write("own.yaml", text)) == load_config()


@pytest.mark.parametrize("name", ["own.yaml", "own.yml", "own.json", "own"])
def test_a_file_may_have_any_name_and_be_json(write, name):
    assert load_config(write(name, '{"SEED": 3, "MODEL": {"WEIGHTS": "x"}}')).SEED == 3


def test_a_python_file_is_not_run(write):
    ran = write("ran", "").parent / "trace"
    path = write("own.py", f"open({str(ran)!r}, 'w')\ncfg = 1\n")
    assert "a config file is a mapping of sections" in refusal(path)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "a config file is a mapping of sections such as MODEL, but this file is not (config file)"),
        (b"hello", "a config file is a mapping of sections such as MODEL, but this file is not (config file)"),
        ("SEED: 1".encode("utf-16"), "own.yaml:1: not UTF-8: byte 0xff; save the file as UTF-8"),
        (b"SEED: 1\nOUTPUT_DIR: \xfc", "own.yaml:2: not UTF-8: byte 0xfc"),
        (b"SEED: \x00\n", ":1: not valid YAML: the character '\\x00'"),
        (b"SEED: 1\nSEED: 2\n", ":2: SEED is set twice in this section, first in line 1"),
        (b"MODEL:\n\tWEIGHTS: x\n", "indent with spaces"),
        (b'OUTPUT_DIR: "a\\0b"\n', ":1: OUTPUT_DIR must be a folder's name"),
        (b"MODEL: {_BASE_: a.yaml}\n", ":1: MODEL._BASE_: FasterRCNN has no key _BASE_"),
    ],
)
def test_a_file_that_is_no_config_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "own.yaml"
    path.write_bytes(content)
    assert refusal(path).startswith(str(path))
    assert message in refusal(path)


@pytest.mark.parametrize("path", ["", "/", "nowhere/own.yaml", "a" * 5000, "a\0b"])
def test_a_path_that_is_no_file_is_refused(path):
    assert " (config file)" in refusal(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5.0), ("1e-3", 0.001), ("-1e-3", -0.001), (" 2 ", 2.0), (".inf", float("inf")), (3, 3.0), (0.25, 0.25)],
)
def test_a_number_on_the_command_line_is_one(text, value):
    assert load_config(opts=["SOLVER.OPTIMIZER.LR", text]).SOLVER.OPTIMIZER.LR == value


@pytest.mark.parametrize(("text", "value"), [("true", True), ("True", True), ("false", False), (False, False)])
def test_true_and_false_on_the_command_line_are_booleans(text, value):
    assert load_config(opts=["MODEL.RPN.MATCHER.KEEP_BEST", text]).MODEL.RPN.MATCHER.KEEP_BEST is value


@pytest.mark.parametrize(
    "text",
    ["", "null", "5", "1e-3", "true", "a b: c", "@x", "[", "ü ∂", "-x", "'quoted'", "C:\\weights.pth", "~/x.pth"],
)
def test_a_string_on_the_command_line_is_unchanged(text):
    assert load_config(opts=["MODEL.WEIGHTS", text]).MODEL.WEIGHTS == text


def test_a_path_object_is_a_string(tmp_path):
    assert load_config(opts=["OUTPUT_DIR", tmp_path]).OUTPUT_DIR == str(tmp_path)


def test_one_entry_of_a_list_is_edited_from_the_command_line():
    cfg = load_config(opts=["TRANSFORMS.TRAIN.0.SIZE", "240"])
    assert [node.NAME for node in cfg.TRANSFORMS.TRAIN] == ["ResizeShortSide", "RandomHorizontalFlip"]
    assert (cfg.TRANSFORMS.TRAIN[0].SIZE, cfg.TRANSFORMS.TRAIN[0].MAX_SIZE, cfg.TRANSFORMS.TEST[0].SIZE) == (
        240,
        1000,
        600,
    )


def test_the_last_value_of_a_key_on_the_command_line_wins():
    assert load_config(opts=["SEED", "1", "SEED", "2"]).SEED == 2


def test_a_section_is_given_whole_or_by_its_keys_and_not_both():
    whole = ["MODEL.RPN", "{MIN_SIZE: 4}"]
    assert load_config(opts=whole).MODEL.RPN.MIN_SIZE == 4
    for opts in ([*whole, "MODEL.RPN.NMS.IOU", "0.5"], ["MODEL.RPN.NMS.IOU", "0.5", *whole]):
        assert "set both as a whole and key by key" in refusal(opts=opts)


def test_a_section_that_a_caller_gives_is_not_changed():
    section = {"RPN": {"MIN_SIZE": 4}}
    refusal(opts=["MODEL", section, "MODEL.RPN.NMS.IOU", 0.5])
    load_config(opts=["MODEL", section])
    assert section == {"RPN": {"MIN_SIZE": 4}}


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SEED"], "command line: the key SEED has no value after it"),
        (["SEED", "1", "SOLVER.MAX_ITER"], "command line: the key SOLVER.MAX_ITER has no value after it"),
        (["SEED=1"], "command line: 'SEED=1' is not a key; write KEY VALUE, with a space"),
        (["SEED=1", "SOLVER.MAX_ITER=2"], "command line: 'SEED=1' is not a key; write KEY VALUE, with a space"),
        (["SEED=1", "OUTPUT_DIR", "x"], "command line: 'SEED=1' is not a key; write KEY VALUE, with a space"),
        (["MODEL.CLASSES", "[cat,", "dog]"], "command line: 'dog]' (after '[cat,') is not a key; keys look like"),
        (["MODEL.CLASSES", "[a,", "b]", "SEED", "1"], "'b]' (after '[a,') is not a key"),
        (["MODEL.CLASSES", "[cat, dog"], "MODEL.CLASSES: not valid YAML: while parsing a flow sequence"),
        (["", "1"], "command line: '' is not a key"),
        (["MODEL..WEIGHTS", "1"], "command line: 'MODEL..WEIGHTS' is not a key"),
        (["SEED.", "1"], "command line: 'SEED.' is not a key"),
        (["TRANSFORMS.TRAIN.-1.SIZE", "1"], "is not a key"),
        (["TRANSFORMS.TRAIN.5.SIZE", "1"], "TRANSFORMS.TRAIN.5: there is no such entry; the list has length 2"),
        ([5, 6], "command line: 5: the config has no key 5"),
        (["SEED", ""], "command line: SEED: expected a whole number, got ''"),
        (["SEED", "-3"], "command line: SEED must be at least 0"),
        (["SEED", "1e300"], "command line: SEED: expected a whole number, got 1e+300, which has more than 64 bits"),
        (["MAX_ITER", "5"], "command line: MAX_ITER: the config has no key MAX_ITER; did you mean SOLVER.MAX_ITER?"),
        (["MODEL.MIN_SIZE", "5"], "did you mean MODEL.RPN.MIN_SIZE?"),
        (["MODEL.RPN.MATCHER", "MaxIoUMatcher"], "got 'MaxIoUMatcher'; write MODEL.RPN.MATCHER.NAME MaxIoUMatcher"),
        (["_BASE_", "a.yaml"], "command line: _BASE_: the config has no key _BASE_"),
        (["IMPORTS", "5"], "command line: IMPORTS: expected a list of modules or .py files"),
    ],
)
def test_a_command_line_that_does_not_fit_is_refused(opts, message):
    assert message in refusal(opts=opts)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.CLASSES", "[]"], "MODEL: CLASSES must be one or more different names, got none"),
        (["MODEL.CLASSES", "[cat, cat]"], "MODEL: CLASSES must be one or more different names"),
        (["DATASETS.NUM_WORKERS", "-1"], "DATASETS: NUM_WORKERS must be auto or from 0 to 256, got -1"),
        (["DATASETS.NUM_WORKERS", "20000"], "DATASETS: NUM_WORKERS must be auto or from 0 to 256, got 20000"),
        (["SOLVER.BATCH_SIZE", "0"], "SOLVER: BATCH_SIZE must be at least 1, got 0"),
        (["SOLVER.ACCUMULATION", "3"], "SOLVER: ACCUMULATION must divide BATCH_SIZE (2) evenly, got 3"),
        (["SOLVER.ACCUMULATION", "0"], "SOLVER: ACCUMULATION must divide BATCH_SIZE (2) evenly, got 0"),
        (["SOLVER.MAX_ITER", "-1"], "SOLVER: MAX_ITER must be at least 0, got -1"),
        (["SOLVER.MAX_ITER", "null"], "SOLVER: MAX_ITER or EPOCHS must be set, got null for both"),
        (["SOLVER.EPOCHS", "0"], "SOLVER: EPOCHS must be above 0, got 0.0"),
        (["SOLVER.EPOCHS", "2", "SOLVER.MAX_ITER", "5"], "SOLVER: MAX_ITER and EPOCHS are both set; choose one"),
        (["SOLVER.REFERENCE_BATCH_SIZE", "-1"], "SOLVER: REFERENCE_BATCH_SIZE must be at least 0 (off), got -1"),
        (["SOLVER.CLIP_GRADIENT_NORM", "-1"], "SOLVER: CLIP_GRADIENT_NORM must be at least 0"),
        (["SOLVER.CHECKPOINT_PERIOD", "0"], "SOLVER: CHECKPOINT_PERIOD must be at least 1, got 0"),
        (["SOLVER.LOG_PERIOD", "0"], "SOLVER: LOG_PERIOD must be at least 1, got 0"),
        (["EVALUATION.PERIOD", "-1"], "EVALUATION: PERIOD must be at least 0"),
        (["EVALUATION.BATCH_SIZE", "0"], "EVALUATION: BATCH_SIZE must be at least 1, got 0"),
        (["EVALUATION.PICTURES", "-1"], "EVALUATION: PICTURES must be at least 0, got -1"),
        (["OUTPUT_DIR", ""], "OUTPUT_DIR must be a folder's name, got ''"),
    ],
)
def test_a_value_that_no_run_could_have_is_refused_as_the_config_loads(opts, message):
    assert refusal(opts=opts).startswith(f"command line: {message}")


def test_of_steps_and_epochs_the_highest_layer_that_sets_one_decides(write):
    base = write("base.yaml", "SOLVER: {EPOCHS: 12}")
    own = write("own.yaml", "{_BASE_: base.yaml, SOLVER: {MAX_ITER: 300}}")
    for path, opts, expected in [
        (None, [], (70000, None)),
        (base, [], (None, 12)),
        (base, ["SOLVER.MAX_ITER", "5"], (5, None)),
        (own, [], (300, None)),
        (own, ["SOLVER.EPOCHS", "0.5"], (None, 0.5)),
    ]:
        solver = load_config(path, opts).SOLVER
        assert (solver.MAX_ITER, solver.EPOCHS) == expected
    dumped = write("dumped.yaml", load_config(base).dump())
    assert load_config(dumped).SOLVER.EPOCHS == 12
    assert load_config(own).SOLVER.sources["EPOCHS"] == f"{own}:1"


def test_a_rule_between_two_keys_names_both_places(write):
    path = write("own.yaml", "SOLVER:\n  BATCH_SIZE: 3\n")
    assert refusal(path, ["SOLVER.ACCUMULATION", "2"]).startswith(f"{path}:2, command line: SOLVER: ACCUMULATION")


@pytest.mark.parametrize("key", ["SEEED", "MODEL.RPN.MATCHER.KEEP_BETS", "TRANSFORMS.TEST.0.SIZ"])
def test_a_wrong_key_is_the_same_mistake_in_a_file_and_on_the_command_line(write, key):
    *sections, last = key.split(".")
    path = write("own.yaml", ": {".join([*sections, f"{last}: 1"]) + "}" * len(sections))
    from_file, from_command_line = refusal(path), refusal(opts=[key, "1"])
    assert from_file.removeprefix(f"{path}:1") == from_command_line.removeprefix("command line")
    assert "did you mean" in from_file


@pytest.mark.parametrize("key", ["SEED", "SOLVER.OPTIMIZER.LR", "MODEL.CLASSES", "DATASETS.GROUP_BY_ASPECT_RATIO"])
def test_null_replaces_no_value_of_another_type(key):
    assert refusal(opts=[key, "null"]).startswith(f"command line: {key}: expected ")
