"""A config explained: values, defaults, owners and layers."""

import inspect
import os
import sys
from pathlib import Path

import pytest

from detlite.cli import main
from detlite.config import load_config
from detlite.config.explain import explain, format_details, format_difference, format_tree, select
from detlite.errors import UserError
from detlite.modeling.matcher import MaxIoUMatcher
from detlite.modeling.nms import GreedyNMS
from detlite.modeling.sampler import HardNegativeSampler

ROOT = Path(__file__).parents[2]


def entry(cfg, key):
    return select(explain(cfg), key)[0]


def leaves(value, path=""):
    """The dotted keys of all values of a plain tree; NAMEs and empty lists are their node's."""
    if isinstance(value, dict):
        return {leaf for key, item in value.items() for leaf in leaves(item, f"{path}.{key}".lstrip("."))}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {leaf for number, item in enumerate(value) for leaf in leaves(item, f"{path}.{number}")}
    return {path.removesuffix(".NAME")}


@pytest.mark.parametrize("path", [None, *(ROOT / "configs" / f"{name}.yaml" for name in ("quickstart", "notebook"))])
def test_every_value_of_the_tree_is_explained_once(path):
    cfg = load_config(path)
    paths = [entry.path for entry in explain(cfg)]
    assert len(paths) == len(set(paths))
    assert leaves(cfg.plain()) <= set(paths)


def test_the_layer_that_set_a_key_is_named_for_each_layer(write):
    grand = write("grand.yaml", "SEED: 1\nMODEL:\n  RPN:\n    MATCHER: {KEEP_BEST: false}\n    NMS: {IOU: 0.5}\n")
    base = write("base.yaml", "_BASE_: grand.yaml\nSOLVER:\n  MAX_ITER: 1\nMODEL: {RPN: {NMS: {IOU: 0.6}}}\n")
    path = write("own.yaml", "_BASE_: base.yaml\n\nMODEL: {ROI_HEADS: {POOLER: {NAME: RoIAlign}}}\n")
    cfg = load_config(path, ["OUTPUT_DIR", "x", "TRANSFORMS.TEST.0.SIZE", "9"])
    layers = {
        "MODEL.DEVICE": "default",
        "MODEL.RPN.MATCHER": "default",
        "SEED": f"{grand}:1",
        "MODEL.RPN.MATCHER.KEEP_BEST": f"{grand}:4",
        "SOLVER.MAX_ITER": f"{base}:3",
        "MODEL.RPN.NMS.IOU": f"{base}:4",
        "MODEL.ROI_HEADS.POOLER": f"{path}:3",
        "MODEL.ROI_HEADS.POOLER.RESOLUTION": "default",
        "OUTPUT_DIR": "command line",
        "TRANSFORMS.TEST": "default",
        "TRANSFORMS.TEST.0.SIZE": "command line",
    }
    assert {key: entry(cfg, key).source for key in layers} == layers
    lines = format_tree(explain(cfg), width=300).splitlines()
    assert [line.split() for line in lines if "KEEP_BEST" in line][0] == (
        ["KEEP_BEST", "false", f"{grand}:4", "(default", "true)"]
    )


def test_a_list_names_the_layer_that_replaced_it_even_when_it_is_empty(write):
    path = write("own.yaml", "SEED: 1\nTRANSFORMS: {TEST: []}\n")
    cfg = load_config(path, ["HOOKS", "[]"])
    assert (entry(cfg, "TRANSFORMS.TEST").source, entry(cfg, "TRANSFORMS.TEST").value) == (f"{path}:2", [])
    assert entry(cfg, "HOOKS").source == "command line"
    assert entry(cfg, "DATASETS.TRAIN").source == "default"


def test_a_slot_s_own_default_stands_before_the_part_s():
    cfg = load_config()
    own = MaxIoUMatcher.__init__.__kwdefaults__
    inner = entry(cfg, "MODEL.ROI_HEADS.MATCHER.FOREGROUND_IOU")
    assert inner.default == 0.5 != own["foreground_iou"]
    stages = load_config(
        opts=["MODEL.ROI_HEADS.NAME", "CascadeRoIHeads", "MODEL.ROI_HEADS.MATCHERS.2.KEEP_BEST", "true"]
    )
    third = entry(stages, "MODEL.ROI_HEADS.MATCHERS.2.FOREGROUND_IOU")
    assert (third.value, third.default, third.source) == (0.7, 0.7, "default")
    second = entry(stages, "MODEL.ROI_HEADS.MATCHERS.1.FOREGROUND_IOU")
    assert (second.value, second.default) == (0.6, 0.6)


def test_the_slot_s_default_goes_with_the_part_that_it_is_for():
    cfg = load_config(opts=["MODEL.ROI_HEADS.SAMPLER.NAME", "HardNegativeSampler"])
    samples = entry(cfg, "MODEL.ROI_HEADS.SAMPLER.NUM_SAMPLES")
    own = HardNegativeSampler.__init__.__kwdefaults__["num_samples"]
    assert own != entry(load_config(), "MODEL.ROI_HEADS.SAMPLER.NUM_SAMPLES").default
    assert (samples.value, samples.default) == (own, own)


def test_a_default_value_is_the_one_that_holds():
    assert all(entry.value == entry.default for entry in explain(load_config()) if entry.kind == "value")


def test_details_have_value_type_default_layer_owner_and_meaning():
    cfg = load_config(opts=["MODEL.RPN.NMS.IOU", "0.6"])
    file, line = inspect.getsourcefile(GreedyNMS), inspect.getsourcelines(GreedyNMS)[1]
    text = format_details(entry(cfg, "MODEL.RPN.NMS.IOU"))
    assert text.splitlines()[:5] == [
        "MODEL.RPN.NMS.IOU: 0.6",
        "    a box is dropped if its IoU with a better box is higher than this.",
        "    type     a number",
        "    default  0.7",
        "    set by   command line",
    ]
    owner = text.splitlines()[5].removeprefix("    owner    GreedyNMS, ")
    assert Path(owner.rpartition(":")[0]).resolve() == Path(file) and owner.endswith(f":{line}")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("SEEED", "there is no key SEEED; did you mean SEED or "),
        ("MATCHER", "there is no key MATCHER; did you mean MODEL.RPN.MATCHER or MODEL.ROI_HEADS.MATCHER?"),
        ("solver.max_iter", "there is no key solver.max_iter; did you mean SOLVER.MAX_ITER?"),
        ("MODEL.RPN.MATCHER.K", "there is no key MODEL.RPN.MATCHER.K; did you mean MODEL.RPN.MATCHER or "),
        ("TRANSFORMS.TEST.7", "there is no key TRANSFORMS.TEST.7; did you mean TRANSFORMS.TEST.0 or "),
        ("", "there is no key ; did you mean "),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(key, message):
    with pytest.raises(UserError) as caught:
        select(explain(load_config()), key)
    assert message in str(caught.value)


def test_a_part_may_be_asked_for_by_its_name_too():
    entries = explain(load_config())
    whole, name = select(entries, "MODEL.RPN.MATCHER"), select(entries, "MODEL.RPN.MATCHER.NAME")
    assert name == whole[:1] and len(whole) > 1


def test_a_resolved_config_differs_from_its_source_in_nothing(write):
    cfg = load_config(ROOT / "configs" / "quickstart.yaml")
    again = load_config(write("config.yaml", cfg.dump()))
    assert format_difference(explain(cfg), explain(again)) == ""


def test_a_difference_shows_values_and_parts_with_their_layers(write):
    one = write("one.yaml", "MODEL: {RPN: {NMS: {IOU: 0.5}, MATCHER: {NAME: ATSSMatcher, K: 3}}}\n")
    other = write("other.yaml", "SEED: 0\nTRANSFORMS: {TEST: []}\n")
    text = format_difference(explain(load_config(one)), explain(load_config(other)))
    assert text == "\n".join(
        [
            "MODEL.RPN.MATCHER",
            f"  - ATSSMatcher    ({one}:1)",
            "  + MaxIoUMatcher  (default)",
            "MODEL.RPN.MATCHER.K",
            f"  - 3            ({one}:1)",
            "  + no such key",
            "MODEL.RPN.NMS.IOU",
            f"  - 0.5  ({one}:1)",
            "  + 0.7  (default)",
            "TRANSFORMS.TEST",
            "  - [ResizeShortSide]  (default)",
            f"  + []                 ({other}:2)",
        ]
    )


def test_the_command_takes_keys_and_a_training_s_pairs(capsys):
    words = ["--config-file", str(ROOT / "configs" / "quickstart.yaml"), "SEED", "SOLVER.MAX_ITER"]
    assert main([*words, "--set", "SEED", "7", "SOLVER.MAX_ITER", "-0"], "explain") == 0
    said = capsys.readouterr().out
    assert "SEED: 7\n" in said and said.count("set by   command line") == 2


def test_the_command_says_which_values_the_weights_will_set(capsys):
    command = ["--set", "MODEL.CHANNEL_ORDER", "RGB", "MODEL.WEIGHTS"]
    assert main([*command, "vgg.pth"], "explain") == 0
    assert capsys.readouterr().out.endswith(
        "MODEL.PIXEL_MEAN, MODEL.PIXEL_STD: vgg.pth replaces the default if it contains these values.\n"
    )
    assert main(["MODEL.PIXEL_MEAN", *command, "vgg.pth"], "explain") == 0
    assert "\n\nMODEL.PIXEL_MEAN: vgg.pth replaces the default" in capsys.readouterr().out
    assert main(["SEED", *command, "vgg.pth"], "explain") == 0
    assert "trained with, if" not in capsys.readouterr().out
    assert main([*command, ""], "explain") == 0
    assert "trained with, if" not in capsys.readouterr().out


def test_the_command_shows_the_config_inside_weights(checkpoint, capsys):
    assert main(["--weights", str(checkpoint()), "MODEL.CLASSES", "--set", "SEED", "7"], "explain") == 0
    assert "MODEL.CLASSES: [circle, square, triangle]\n" in capsys.readouterr().out
    assert main(["--weights", "x.pth", "--diff", "a.yaml", "b.yaml"], "explain") == 1
    assert "remove --config-file and --weights" in capsys.readouterr().err


def test_the_command_compares_lists_and_refuses(capsys):
    quickstart = str(ROOT / "configs" / "quickstart.yaml")
    assert main(["--diff", quickstart, quickstart], "explain") == 0
    assert "mean the same" in capsys.readouterr().out
    assert main(["--diff", quickstart, str(ROOT / "configs" / "modern.yaml"), "MODEL.BACKBONE"], "explain") == 0
    said = capsys.readouterr().out
    assert "MODEL.BACKBONE.WIDTH\n" in said and "MODEL.RPN" not in said
    assert main(["--list", "matcher"], "explain") == 0
    assert "\n### MaxIoUMatcher\n" in capsys.readouterr().out
    assert main(["--list", "MATCHR"], "explain") == 1
    assert "there is no slot MATCHR; did you mean MATCHER?" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch, capsys):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed_at_its_other_end:
        for name in ("stdout", "__stdout__"):
            monkeypatch.setattr(sys, name, closed_at_its_other_end)
        assert main(["--parts"], "explain") == 0
    assert capsys.readouterr().err == ""
