"""The page of ``detlite test --report``: of a run, of saved predictions, and of two runs."""

import json
import re

import pytest

from detlite.cli import main
from detlite.inspection.report.write import POINTS, read_run

SHAPES = ["DATASETS.TEST", "{NAME: ShapesDataset, IMAGE_SIZE: 64, NUM_IMAGES: 4}"]


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture
def make_run(tmp_path):
    """Return a function: (name, predictions, lines of metrics) -> the folder of a run on the shapes."""

    def make(name, predictions, metrics=()):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "predictions.json").write_text(json.dumps(predictions))
        (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in metrics))
        return folder

    return make


def detection(score):
    return {"image_id": 2, "category_id": 1, "bbox": [5, 5, 20, 20], "score": score}


def test_a_tested_detector_has_a_report_beside_its_results(checkpoint, tmp_path):
    arguments = ["--weights", str(checkpoint()), "--report", "OUTPUT_DIR", str(tmp_path / "output")]
    assert main(arguments, command="test") == 0
    content = data_of(tmp_path / "output/report.html")
    results = json.loads((tmp_path / "output/evaluation.json").read_text())["bbox"]
    (run,) = content["runs"]
    assert run["scores"] == {key: value for key, value in results.items() if key != "per_class"}
    assert run["AP"] == list(results["per_class"].values())
    assert content["images"] == 5 and run["name"] == "output"
    assert run["detections"] == len(json.loads((tmp_path / "output/predictions.json").read_text()))
    assert run["mistakes"] and all(mistake["picture"] for mistake in run["mistakes"])


def test_saved_predictions_of_two_runs_stand_side_by_side_with_their_trainings(make_run, tmp_path):
    metrics = [json.dumps({"step": 20, "loss": 2.5}), json.dumps({"step": 40, "bbox": {"AP": 0.5, "APs": None}}), "{"]
    one, two = make_run("one", [detection(0.9)], metrics), make_run("two", [])
    arguments = ["--predictions", str(one / "predictions.json"), "--compare", str(two), *SHAPES]
    assert main([*arguments, "OUTPUT_DIR", str(tmp_path / "output")], command="test") == 0
    first, second = data_of(tmp_path / "output/report.html")["runs"]
    assert (first["name"], first["detections"], second["name"], second["detections"]) == ("one", 1, "two", 0)
    assert first["metrics"] == {"loss": [[20, 2.5]], "bbox/AP": [[40, 0.5]]} and second["metrics"] == {}
    assert second["scores"]["AP"] == 0.0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b'{"step": 1}\n{"step": \xff}\n{"step": 2}\n', "metrics.jsonl:2: not UTF-8: byte 0xff"),
        (b'{"step": 1}\n5\n', "metrics.jsonl:2: expected a JSON object, got 5"),
        (b"[1]\n", "metrics.jsonl:1: expected a JSON object, got [1]"),
        (b'{"step"\n{"step": 2}\n', "metrics.jsonl:1: not JSON: "),
        (b'{"loss": 1.0}\n', "metrics.jsonl: a line has the step null, expected a whole number"),
        (b'{"step": 1e999}\n', "metrics.jsonl: a line has the step inf, expected a whole number"),
    ],
)
def test_metrics_that_are_no_curves_are_one_message(make_run, tmp_path, capsys, lines, message):
    folder = make_run("one", [])
    (folder / "metrics.jsonl").write_bytes(lines)
    arguments = ["--predictions", str(folder), "--report", *SHAPES, "OUTPUT_DIR", str(tmp_path / "output")]
    assert main(arguments, command="test") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error


def test_numbers_that_are_not_finite_are_no_points_of_a_curve(make_run, tmp_path):
    folder = make_run("one", [], ['{"step": 1, "loss": NaN}', '{"step": 2, "loss": 0.5}', '{"step": 3, "loss": 1e999}'])
    arguments = ["--predictions", str(folder), "--report", *SHAPES, "OUTPUT_DIR", str(tmp_path / "output")]
    assert main(arguments, command="test") == 0
    assert data_of(tmp_path / "output/report.html")["runs"][0]["metrics"] == {"loss": [[2, 0.5]]}


def test_long_curves_are_thinned_out(make_run):
    folder = make_run("long", [], [json.dumps({"step": step, "loss": 1 / step}) for step in range(1, 2001)])
    points = read_run(folder)["metrics"]["loss"]
    assert points[:2] == [(1, 1.0), (6, 1 / 6)] and len(points) == POINTS


def test_without_asking_there_is_no_report(make_run, tmp_path):
    arguments = ["--predictions", str(make_run("one", [])), *SHAPES, "OUTPUT_DIR", str(tmp_path / "output")]
    assert main(arguments, command="test") == 0
    assert (tmp_path / "output/evaluation.json").exists() and not (tmp_path / "output/report.html").exists()


def test_the_other_run_s_mistakes_are_named(make_run, tmp_path, capsys):
    arguments = ["--predictions", str(make_run("one", [])), *SHAPES, "OUTPUT_DIR", str(tmp_path / "output")]
    assert main([*arguments, "--compare", str(tmp_path / "none.json")], command="test") == 1
    assert "none.json: No such file or directory" in capsys.readouterr().err
    other = make_run("other", [{**detection(0.5), "image_id": 99}])
    assert main([*arguments, "--compare", str(other)], command="test") == 1
    assert "other/predictions.json: predictions have image_id 99" in capsys.readouterr().err


def test_coco_s_numbers_are_there_whatever_evaluators_the_config_names(make_run, tmp_path):
    arguments = ["--predictions", str(make_run("one", [])), "--report", *SHAPES]
    arguments += ["OUTPUT_DIR", str(tmp_path / "output"), "EVALUATION.EVALUATORS", "[{NAME: PascalVOCEvaluator}]"]
    assert main(arguments, command="test") == 0
    assert data_of(tmp_path / "output/report.html")["runs"][0]["scores"]["AP50"] == 0.0
