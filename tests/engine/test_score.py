"""``test_net.py --predictions``: saved COCO results are scored without a model."""

import csv
import json

import pytest
import torch
from PIL import Image

from detlite.agreement import build_test_sets
from detlite.cli import main
from detlite.config import load_config
from detlite.data import CocoDataset, ResizeShortSide, test_loader
from detlite.engine.output_dir import open_output
from detlite.engine.test import evaluate_model
from detlite.engine.test import test as run_test
from detlite.engine.train import train
from detlite.evaluation.analysis import DetectionAnalysis
from detlite.evaluation.coco import CocoEvaluator
from detlite.evaluation.inference import evaluate
from detlite.modeling import build_model

EVALUATORS = ["CocoEvaluator", "PascalVOCEvaluator", "DetectionAnalysis"]


@pytest.fixture
def coco(tmp_path):
    """A COCO file with an annotation id 0, category ids 7 and 42 and neither area nor iscrowd; its options."""
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 100, "height": 80} for n in range(3)],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 7, "bbox": [10.1, 20.2, 30.3, 40.4]},
            {"id": 1, "image_id": 0, "category_id": 42, "bbox": [50, 5, 20, 60]},
            {"id": 2, "image_id": 2, "category_id": 7, "bbox": [0, 0, 50, 70]},
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 42, "name": "dog"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    for image in content["images"]:
        Image.new("RGB", (100, 80)).save(tmp_path / image["file_name"])
    test = f"{{NAME: CocoDataset, ANNOTATIONS: {tmp_path / 'truth.json'}, IMAGES: {tmp_path}}}"
    options = ["DATASETS.TEST", test, "OUTPUT_DIR", str(tmp_path / "output")]
    return content, options


def score(tmp_path, options, predictions, *more):
    path = tmp_path / "results.json"
    path.write_text(predictions if isinstance(predictions, str) else json.dumps(predictions))
    return main(["--predictions", str(path), *options, *more], command="test")


def perfect(content):
    return [{**{k: a[k] for k in ("image_id", "category_id", "bbox")}, "score": 0.9} for a in content["annotations"]]


def test_thresholds_are_written_and_logged_and_other_goals_are_refused(coco, tmp_path, capsys):
    content, options = coco
    assert score(tmp_path, options, perfect(content), "--thresholds", "0.9") == 0
    row = {"threshold": 0.9, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert json.loads((tmp_path / "output/thresholds.json").read_text()) == {"cat": row, "dog": row}
    assert ["cat", "0.900", "1.000", "1.000", "1.000"] in map(str.split, capsys.readouterr().out.splitlines())
    for goal in ("0", "1.5", "F1", "nan"):
        assert score(tmp_path, options, perfect(content), "--thresholds", goal) == 1
        assert "thresholds: expected f1 or a precision from 0 to 1, such as 0.9" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["pycocotools", "faster_coco_eval"])
def test_ground_truth_scores_exactly_one_with_every_evaluator(coco, tmp_path, capsys, backend):
    content, options = coco
    nodes = [{"NAME": name} for name in EVALUATORS]
    nodes[0]["BACKEND"] = backend
    assert score(tmp_path, options, perfect(content), "EVALUATION.EVALUATORS", json.dumps(nodes)) == 0
    results = json.loads((tmp_path / "output/evaluation.json").read_text())
    assert results["bbox"]["AP"] == results["bbox"]["AR100"] == 1.0 and results["bbox"]["APs"] is None
    assert results["voc"]["AP"] == results["voc"]["APArea"] == 1.0
    assert results["analysis"]["all"]["f1"] == results["analysis"]["all"]["AP"] == 1.0
    assert results["confusion_matrix"]["counts"] == [[0, 0, 0], [0, 2, 0], [0, 0, 1]]
    assert "1.000" in capsys.readouterr().out
    with open(tmp_path / "output/tables/confusion_matrix.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["true", "background", "cat", "dog"],
            ["background", "0", "0", "0"],
            ["cat", "0", "2", "0"],
            ["dog", "0", "0", "1"],
        ]
    with open(tmp_path / "output/tables/per_class.csv", newline="") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert rows["cat"] == dict(
        zip(rows["cat"], ["cat", "1.0", "1.0", "1.0", "1.0", "2", "0", "0"], strict=True)
    ) and set(rows) == {"cat", "dog", "all"}
    points = json.loads((tmp_path / "output/tables/precision_recall.json").read_text())
    assert [(point["class"], point["recall"]) for point in points] == [("cat", 0.5), ("cat", 1.0), ("dog", 1.0)]


def test_no_predictions_score_zero_and_an_empty_size_is_not_a_number(coco, tmp_path, capsys):
    content, options = coco
    assert score(tmp_path, options, []) == 0
    results = json.loads((tmp_path / "output/evaluation.json").read_text())["bbox"]
    assert results["AP"] == 0.0 and results["APs"] is None
    output = capsys.readouterr().out
    assert "n/a" in output and "Likely cause: no detections for 3 objects" in output


def test_a_run_s_own_predictions_score_what_the_run_said_to_the_last_digit(tiny_opts, tmp_path):
    nodes = [{"NAME": name} for name in EVALUATORS]
    options = tiny_opts(SOLVER__MAX_ITER=2, EVALUATION__EVALUATORS=nodes, MODEL__ROI_HEADS__SCORE_THRESHOLD=0.0)
    results = train(load_config(opts=options))
    assert results["proposals"]["AR@100"] is not None
    folder = tmp_path / "output"
    arguments = ["--config-file", str(folder / "config.yaml"), "--predictions", str(folder / "predictions.json")]
    assert main([*arguments, "OUTPUT_DIR", str(tmp_path / "again")], command="test") == 0
    again = json.loads((tmp_path / "again/evaluation.json").read_text())
    again["proposals"] = results["proposals"]  # which a file of predictions has not
    assert again == results
    cfg = load_config(folder / "config.yaml", ["OUTPUT_DIR", str(tmp_path / "tested")])
    assert run_test(cfg, folder / "model_final.pth") == results


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ("[{", "not a JSON file"),
        ({"annotations": []}, "expected a list of COCO results, got a dict"),
        ([{"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}], "the data set's are 7 (cat), 42 (dog)"),
        ([{"image_id": 9, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 1}], "image_id 9; the data set's are 0, 1"),
        ([{"image_id": 0, "category_id": 7, "bbox": [1, 2, 3], "score": 1}], "prediction 0: expected image_id"),
        ('[{"image_id": 0, "category_id": 7, "bbox": [1, 2, 3, NaN], "score": 1}]', "prediction 0: expected image_id"),
    ],
)
def test_a_file_that_cannot_be_scored_is_named(coco, tmp_path, capsys, predictions, message):
    assert score(tmp_path, coco[1], predictions) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "results.json: " in error and message in error


def test_a_missing_file_is_named(coco, tmp_path, capsys):
    assert main(["--predictions", str(tmp_path / "none.json"), *coco[1]], command="test") == 1
    assert "none.json: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--weights", "a.pth", "--predictions", "b.json"]])
def test_either_weights_or_predictions_are_given(capsys, arguments):
    assert main(arguments, command="test") == 2
    error = capsys.readouterr().err
    assert "--weights" in error and "--predictions" in error


class Proposing(torch.nn.Module):
    """Proposes the left half of each image, if asked, and detects nothing."""

    asked = None

    def forward(self, images, *, extras=()):
        self.asked = extras
        nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
        halves = [torch.tensor([[0.0, 0.0, image.shape[2] / 2, image.shape[1]]]) for image in images]
        return [{**nothing, "proposals": half} if "proposals" in extras else nothing for half in halves]


def test_proposals_reach_the_analysis_in_the_file_s_pixels_and_only_if_it_is_there(coco, tmp_path):
    content, options = coco
    content["annotations"] = [
        {"id": n, "image_id": n, "category_id": 7, "bbox": [0, 0, 50, 80], "area": 4000} for n in range(3)
    ]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    dataset = CocoDataset(annotations=str(tmp_path / "truth.json"), images=str(tmp_path))
    loader = test_loader(dataset, ResizeShortSide(size=40, max_size=100), batch_size=2, num_workers=0)
    analysis, model = DetectionAnalysis(dataset), Proposing()
    evaluate(model, loader, [analysis])
    assert analysis.evaluate()["proposals"] == {"AR@100": 1.0, "AR@300": None, "AR@1000": None}
    evaluate(model, loader, [CocoEvaluator(dataset)])
    assert not model.asked


def test_a_detector_that_scores_everything_under_its_threshold_is_told_so(tiny_opts, tmp_path, capsys):
    classes = ["circle", "square", "triangle"]
    cfg = load_config(
        opts=tiny_opts(
            MODEL__CLASSES=classes,
            EVALUATION__PICTURES=0,
            MODEL__ROI_HEADS__SCORE_THRESHOLD=1.0,
        )
    )
    open_output(tmp_path / "output", keep=True)
    evaluate_model(cfg, build_model(cfg), build_test_sets(cfg))
    output = capsys.readouterr().out
    assert "AP is under 0.01. Likely cause: no detections for" in output and "SCORE_THRESHOLD" in output


def test_predictions_without_their_data_are_refused(tmp_path, capsys):
    path = tmp_path / "predictions.json"
    path.write_text("[]")
    assert main(["--predictions", str(path)], command="test") == 1
    assert "add the --config-file" in capsys.readouterr().err
