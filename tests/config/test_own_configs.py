"""The configs that detlite contains, by their names."""

from pathlib import Path

import pytest

from detlite.cli import main
from detlite.config import load_config
from detlite.config.load import own_configs
from detlite.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"


def test_the_name_of_a_config_loads_its_file():
    assert load_config("detlite:quickstart") == load_config(CONFIGS / "quickstart.yaml")
    assert load_config("detlite:torchvision/base") == load_config(CONFIGS / "torchvision/base.yaml")


def test_a_config_anywhere_may_start_from_several_names(tmp_path):
    config = tmp_path / "my.yaml"
    config.write_text("_BASE_: [detlite:faster_rcnn_vgg16_voc07, detlite:modern]\nSEED: 7\n")
    cfg = load_config(config)
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.MODEL.ROI_HEADS.POOLER.NAME) == (7, 70000, "RoIAlign")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="^detlite:quikstart: .* did you mean quickstart"):
        load_config("detlite:quikstart")


def test_the_command_lists_each_file_with_a_sentence(capsys):
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0].removeprefix("detlite:") for line in lines[:-2]]
    assert listed == list(own_configs()) and len(listed) == len(list(CONFIGS.rglob("*.yaml")))
    assert all(len(line.split()) > 5 and "Command:" not in line for line in lines[:-2])
