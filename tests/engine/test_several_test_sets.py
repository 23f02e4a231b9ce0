"""DATASETS.TEST as a list: each set's results, predictions and pictures are those of a test on it alone."""

import json

import pytest
import torch

from detlite.cli import main
from detlite.config import load_config
from detlite.engine.output_dir import open_output
from detlite.engine.test import score
from detlite.engine.test import test as run_test
from detlite.engine.train import train
from detlite.errors import UserError
from detlite.inspection.visualize import visualize
from detlite.preparation.check import check

EASY = {"NAME": "ShapesDataset", "IMAGE_SIZE": 64, "NUM_IMAGES": 2, "SEED": 1}
HARD = {**EASY, "NUM_IMAGES": 1, "SEED": 2, "MAX_OBJECTS": 9}
BOTH = [{**EASY, "TITLE": "easy"}, {**HARD, "TITLE": "hard"}]
OTHER_CLASSES = """
from detlite.data import ShapesDataset
from detlite.registry import DATASETS

@DATASETS.register()
class Reversed(ShapesDataset):
    def __init__(self, *, seed: int = 0):
        super().__init__(image_size=64, num_images=1)
        self.classes = self.classes[::-1]
"""


def read(folder, name):
    return json.loads((folder / name).read_text())


@pytest.fixture
def tested(checkpoint, tmp_path):
    """A function: (test data) -> (the results of a test, its folder)."""
    weights = checkpoint(MODEL__ROI_HEADS__SCORE_THRESHOLD=0.2)
    (tmp_path / "tiny.yaml").write_text(torch.load(weights)["config"])

    def run(data):
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        opts = ["DATASETS.TEST", data, "OUTPUT_DIR", str(folder), "EVALUATION.LOSS", True]
        return run_test(load_config(tmp_path / "tiny.yaml", opts), weights), folder

    return run


def test_two_test_sets_give_what_each_gives_alone(tested):
    results, folder = tested(BOTH)
    easy, easy_folder = tested(EASY)
    hard, hard_folder = tested(HARD)
    assert easy["bbox"] != hard["bbox"] and set(easy) == {"validation", "bbox"}
    named = {"easy": easy, "hard": hard}
    expected = {f"{title}.{group}": values for title, found in named.items() for group, values in found.items()}
    assert results == easy | expected == read(folder, "evaluation.json")
    for alone, part in ((easy_folder, folder), (hard_folder, folder / "tests" / "hard")):
        assert read(part, "predictions.json") == read(alone, "predictions.json") != []
        pictures = sorted(file.name for file in (part / "pictures").iterdir())
        assert pictures == sorted(file.name for file in (alone / "pictures").iterdir()) and len(pictures) > 1
    assert read(folder / "tests" / "hard", "evaluation.json") == hard

    # The folder of the run is scored like its model.
    opts = ["DATASETS.TEST", BOTH, "OUTPUT_DIR", str(folder.parent / "scored")]
    scored = score(load_config(opts=opts), folder, compare=folder)
    assert scored == {name: values for name, values in results.items() if "bbox" in name}
    assert (folder.parent / "scored" / "tests" / "hard" / "report.html").exists()


def test_a_training_evaluates_on_each_test_set_and_keeps_the_best_of_a_named_one(tiny_opts, tmp_path):
    keys = {
        "SOLVER__MAX_ITER": 1,
        "EVALUATION__PERIOD": 1,
        "EVALUATION__PICTURES": 0,
        "EVALUATION__BEST": "test1.bbox.AP",
        "DATASETS__TEST": BOTH,
    }
    with pytest.raises(UserError, match=r"no evaluator returns 'test1.bbox.AP'.*hard.bbox.AP"):
        train(load_config(opts=tiny_opts(**keys)))
    keys |= {"EVALUATION__BEST": "hard.bbox.AP"}
    results = train(load_config(opts=tiny_opts(**keys)))
    lines = (tmp_path / "output" / "metrics.jsonl").read_text().splitlines()
    evaluations = [line for line in map(json.loads, lines) if "bbox" in line]
    assert [line["step"] for line in evaluations] == [1]
    assert set(results) == {"bbox", "easy.bbox", "hard.bbox"} < set(evaluations[0])

    # A run resumes from its config, and a new run moves all of its files.
    saved = load_config(tmp_path / "output" / "config.yaml")
    assert saved.DATASETS.plain() == load_config(opts=tiny_opts(**keys)).DATASETS.plain()
    train(load_config(tmp_path / "output" / "config.yaml", ["SOLVER.MAX_ITER", 2]), resume=True)
    assert (tmp_path / "output" / "tests" / "hard" / "predictions.json").exists()
    open_output(tmp_path / "output", keep=False)
    assert not (tmp_path / "output" / "tests").exists()


def test_test_sets_with_other_classes_are_refused_by_key(tiny_opts, tmp_path, capsys):
    (tmp_path / "reversed.py").write_text(OTHER_CLASSES)
    nodes = [EASY, {"NAME": "Reversed"}]
    cfg = load_config(opts=tiny_opts(DATASETS__TEST=nodes), imports=[tmp_path / "reversed.py"])
    with pytest.raises(UserError, match=r"DATASETS.TEST.1: its classes are \['triangle', 'square', 'circle'\]"):
        train(cfg)
    with pytest.raises(UserError, match="checks found an error"):
        check(cfg, data_only=True)
    assert "DATASETS.TEST.1: its classes" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"DATASETS.TEST.1 has other classes than DATASETS.TEST.0: it has them in"):
        visualize(cfg, "inputs", split="test", folder=tmp_path / "pictures")


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([], "expected one or more entries with different TITLEs, got none"),
        ([{"TITLE": "night"}, {"TITLE": "Night"}], "different TITLEs, got night, Night"),
        ([{"TITLE": "test1"}, {}], "different TITLEs, got test1, test1"),
        ([{"TITLE": "a/b"}], "TITLE must be of letters, digits, - and _, got 'a/b'"),
    ],
)
def test_titles_are_different_names(nodes, message, tiny_opts, capsys):
    nodes = [{**EASY, **node} for node in nodes]
    assert main([str(word) for word in tiny_opts(DATASETS__TEST=nodes)], command="train") == 1
    assert message in capsys.readouterr().err
