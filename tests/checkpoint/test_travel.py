"""A checkpoint carries its config, class names and pixel statistics: the weights alone are enough to test."""

import json
import os

import pytest
import torch

from detlite.checkpoint import load_checkpoint, read_weights, save_checkpoint
from detlite.checkpoint.pixel_statistics import IMAGENET
from detlite.cli import main
from detlite.config import load_config
from detlite.engine.train import train
from detlite.errors import UserError
from detlite.modeling import build_model
from detlite.prediction.detector import Detector


@pytest.fixture
def backbone_file(saved, tiny_opts):
    """A backbone's weights that say how they take pixels."""
    model = build_model(load_config(opts=tiny_opts()))
    return saved({"model": model.backbone.state_dict(), **IMAGENET.entries()}, "backbone.pth")


@pytest.fixture
def trained(backbone_file, tiny_opts, tmp_path):
    """The folder of a run that started from these weights."""
    train(load_config(opts=tiny_opts(SOLVER__MAX_ITER=2, MODEL__WEIGHTS=str(backbone_file))))
    return tmp_path / "output"


def test_what_the_weights_brought_is_in_the_config_and_the_checkpoint_and_survives_a_resume(
    trained, tiny_opts, backbone_file
):
    expected = IMAGENET.entries()
    assert load_checkpoint(trained / "model_final.pth").items() >= expected.items()
    assert load_config(trained / "config.yaml").MODEL.PIXEL_MEAN == expected["pixel_mean"]
    log = (trained / "log.txt").read_text()
    assert "loaded          backbone.features" in log and "re-initialized  rpn.head" in log
    train(load_config(opts=tiny_opts(SOLVER__MAX_ITER=3, MODEL__WEIGHTS=str(backbone_file))), resume=True)
    assert load_config(trained / "config.yaml").MODEL.CHANNEL_ORDER == "RGB"
    other = tiny_opts(SOLVER__MAX_ITER=4, MODEL__CHANNEL_ORDER="BGR")
    with pytest.raises(UserError, match=r"checkpoint_0000003\.pth was trained with RGB"):
        train(load_config(opts=other), resume=True)


def test_the_weights_alone_give_the_result_of_the_training(trained, tmp_path, capsys):
    results = json.loads((trained / "evaluation.json").read_text())
    moved = tmp_path / "elsewhere.pth"
    (trained / "model_final.pth").rename(moved)
    opts = ["OUTPUT_DIR", str(tmp_path / "alone"), "EVALUATION.PICTURES", "0"]
    assert main(["--weights", str(moved), *opts], "test") == 0
    assert json.loads((tmp_path / "alone" / "evaluation.json").read_text()) == results
    assert not (tmp_path / "alone" / "pictures").exists()
    assert "classes circle, square, triangle" in capsys.readouterr().out


def test_results_are_next_to_the_weights_and_not_in_a_folder_that_only_the_file_names(checkpoint, tmp_path):
    stranger = checkpoint(OUTPUT_DIR=str(tmp_path / "private"))
    private = tmp_path / "private"
    private.mkdir()
    for name in ("movie.mkv.part", "predictions.json"):
        (private / name).write_text("mine")
    assert main(["--weights", str(stranger), "EVALUATION.PICTURES", "0"], "test") == 0
    assert (tmp_path / "predictions.json").exists()
    assert {file.name: file.read_text() for file in private.iterdir()} == {
        "movie.mkv.part": "mine",
        "predictions.json": "mine",
    }


def test_weights_without_a_config_ask_for_one(saved, capsys):
    path = saved({"features.0.weight": torch.zeros(4, 3, 3, 3)})
    assert main(["--weights", str(path)], "test") == 1
    assert "contains no config" in capsys.readouterr().err


def test_code_that_a_stranger_s_config_names_is_not_run_unless_the_user_names_it(tiny_opts, tmp_path, capsys):
    part = tmp_path / "strange_part.py"
    part.write_text(
        "from detlite.registry import MATCHERS\n"
        "from detlite.modeling.matcher import MaxIoUMatcher\n"
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        "@MATCHERS.register()\n"
        "class StrangeMatcher(MaxIoUMatcher):\n"
        "    def __init__(self, **kwargs):\n"
        "        super().__init__(**kwargs)\n"
    )
    text = f"IMPORTS: [{part}]\nMODEL: {{RPN: {{MATCHER: {{NAME: StrangeMatcher}}}}}}\n"
    path = tmp_path / "x.pth"
    save_checkpoint({"model": {"x": torch.zeros(1)}, "config": text}, path)
    assert main(["--weights", str(path)], "test") == 1
    error = capsys.readouterr().err
    assert str(part) in error and error.endswith(f"--import {part} or your copy of it\n")
    assert not (tmp_path / "ran").exists()
    cfg = read_weights(path).load_config(["SEED", "3"], [str(part)])
    assert cfg.MODEL.RPN.MATCHER.NAME == "StrangeMatcher" and cfg.SEED == 3
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["[1, 2", "a word", "", "MODEL: {WEIGTHS: x}", "_BASE_: other.yaml"])
def test_a_checkpoint_s_config_that_is_none_is_one_message(tmp_path, text, capsys):
    path = tmp_path / "x.pth"
    save_checkpoint({"model": {"x": torch.zeros(1)}, "config": text}, path)
    assert main(["--weights", str(path)], "test") == 1
    assert "config in" in capsys.readouterr().err


def test_training_may_start_from_what_its_own_folder_holds(trained, tiny_opts):
    opts = tiny_opts(SOLVER__MAX_ITER=1, MODEL__WEIGHTS=str(trained / "model_final.pth"))
    train(load_config(opts=opts))
    assert load_checkpoint(trained / "model_final.pth")["step"] == 1


def test_weights_that_are_not_there_leave_no_folder_behind(tiny_opts, tmp_path):
    with pytest.raises(UserError, match="no such file of weights"):
        train(load_config(opts=tiny_opts(MODEL__WEIGHTS="nothing.pth")))
    assert not (tmp_path / "output").exists()


def test_weights_in_a_folder_whose_name_is_no_text_are_used_as_others(checkpoint, tmp_path):
    folder = tmp_path / os.fsdecode(b"a\xff")
    folder.mkdir()
    weights = checkpoint().rename(folder / "x.pth")
    assert read_weights(weights).load_config().OUTPUT_DIR == "output"
    assert Detector.from_checkpoint(weights, device="cpu").classes == ["circle", "square", "triangle"]
