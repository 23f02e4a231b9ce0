"""COCO's numbers against arithmetic and against pycocotools run directly, and the traps of pycocotools."""

import copy
import functools
import json
import random
import sys

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_convert

from detlite.errors import UserError
from detlite.evaluation.coco import CocoEvaluator, summarize
from detlite.registry import EVALUATORS

TWELVE = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


class Truth:
    """A data set as the evaluator sees it. ``objects``: (image id, category id, [x, y, width, height]) each."""

    def __init__(self, objects, classes=("cat", "dog"), category_ids=(7, 42), images=3, **extra):
        self.classes, self.category_ids = list(classes), list(category_ids)
        self.document = {
            "images": [{"id": n, "width": 640, "height": 480, "file_name": f"{n}.jpg"} for n in range(images)],
            "categories": [{"id": i, "name": n} for i, n in zip(category_ids, classes, strict=True)],
            "annotations": [
                {"id": n, "image_id": image_id, "category_id": category_id, "bbox": bbox, **extra}
                for n, (image_id, category_id, bbox) in enumerate(objects)
            ],
        }

    def coco(self):
        return self.document


def prediction(image_id, category_id, bbox, score=0.9):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


def perfect(truth):
    return [prediction(a["image_id"], a["category_id"], a["bbox"]) for a in truth.document["annotations"]]


OBJECTS = [(0, 7, [10.1, 20.2, 30.3, 40.4]), (0, 42, [100, 50, 200, 150]), (2, 7, [0, 0, 50, 70])]


def random_case(seed):
    """A truth with crowds, all sizes and absent classes, and predictions with misses, duplicates and tied scores."""
    draw = random.Random(seed)

    def box():
        return [draw.uniform(0, 300), draw.uniform(0, 300), draw.uniform(4, 200), draw.uniform(4, 200)]

    category_ids = [42, 7, 3, 11]  # not ascending; 11 has no object
    objects = [(draw.randrange(6), draw.choice(category_ids[:3]), box()) for _ in range(25)]
    truth = Truth(objects, classes="abcd", category_ids=category_ids, images=8)
    for n, annotation in enumerate(truth.document["annotations"], 1):
        annotation.update(id=n, iscrowd=int(draw.random() < 0.15))
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3] * draw.uniform(0.5, 1)
    predictions = []
    for image_id, category_id, bbox in objects * 2:
        if draw.random() < 0.8:
            moved = [number * draw.uniform(0.9, 1.1) for number in bbox]
            predictions.append(prediction(image_id, category_id, moved, round(draw.random(), 1)))
    for _ in range(150):
        predictions.append(prediction(draw.randrange(8), draw.choice(category_ids), box(), round(draw.random(), 1)))
    return truth, predictions


def score_predictions(truth, predictions, max_detections=(1, 10, 100), **keys):
    evaluator = CocoEvaluator(truth, max_detections=max_detections, **keys)
    evaluator.load(predictions)
    return evaluator.evaluate()["bbox"]


@pytest.fixture(params=["pycocotools", "faster_coco_eval"])
def score(request):
    """score_predictions by each back end."""
    return functools.partial(score_predictions, backend=request.param)


def summarized_by_pycocotools(truth, predictions):
    ground_truth = COCO()
    ground_truth.dataset = copy.deepcopy(truth.coco())
    ground_truth.createIndex()
    evaluation = COCOeval(ground_truth, ground_truth.loadRes(copy.deepcopy(predictions)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(8))
def test_all_twelve_numbers_are_pycocotools_own_to_the_last_bit(seed):
    truth, predictions = random_case(seed)
    scores = score_predictions(truth, predictions, backend="pycocotools")
    stats = summarized_by_pycocotools(truth, predictions).stats.tolist()
    assert list(scores) == [*TWELVE, "per_class"]
    assert [-1 if scores[name] is None else scores[name] for name in TWELVE] == stats


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("keys", [{}, {"max_detections": [2, 300]}, {"iou_thresholds": [0.3, 0.75]}])
def test_the_fast_back_end_gives_the_same_numbers(seed, keys):
    truth, predictions = random_case(seed)
    reference = score_predictions(truth, predictions, **keys, backend="pycocotools")
    fast = score_predictions(truth, predictions, **keys, backend="faster_coco_eval")
    # all to the last bit, but that a precision of 1 / 1 is 1 there and 1 - 2 ** -52 here
    assert fast.pop("per_class") == pytest.approx(reference.pop("per_class"), abs=2**-52)
    assert fast == pytest.approx(reference, abs=2**-52)
    recalls = [name for name in reference if name.startswith("AR")]
    assert len(recalls) >= 5 and [fast[name] for name in recalls] == [reference[name] for name in recalls]


def test_a_back_end_that_is_not_installed_is_named_before_anything_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(UserError, match="BACKEND faster_coco_eval cannot be imported.*pip install faster-coco-eval"):
        EVALUATORS.build({"NAME": "CocoEvaluator", "BACKEND": "faster_coco_eval"}, Truth(OBJECTS))


def test_per_class_ap_is_that_of_the_class_evaluated_alone():
    truth, predictions = random_case(0)
    per_class = score_predictions(truth, predictions)["per_class"]
    for name, category_id in (("a", 42), ("b", 7), ("c", 3)):
        alone = copy.deepcopy(truth)
        alone.document["annotations"] = [a for a in truth.document["annotations"] if a["category_id"] == category_id]
        its_own = [p for p in predictions if p["category_id"] == category_id]
        assert per_class[name] == pytest.approx(summarized_by_pycocotools(alone, its_own).stats[0], rel=1e-12)
    assert per_class["d"] is None


def test_ground_truth_as_predictions_scores_one_with_id_zero_sparse_categories_and_no_area(score):
    truth = Truth(OBJECTS)
    scores = score(truth, perfect(truth))
    assert scores["AP"] == scores["AP50"] == scores["AP75"] == scores["AR100"] == 1.0
    assert scores["per_class"] == {"cat": 1.0, "dog": 1.0}
    assert scores["AR1"] == 1.0  # no image has two objects of one class
    assert scores["APs"] is None and scores["APm"] == scores["APl"] == 1.0  # areas 1224, 30000 and 3500


def test_a_perfect_class_with_a_single_object_scores_one_where_pycocotools_rounds_below(score):
    truth = Truth([(0, 7, [0, 0, 50, 50])])
    truth.document["annotations"][0].update(id=1, area=2500, iscrowd=0)
    assert score(truth, perfect(truth))["AP"] == 1.0
    assert summarized_by_pycocotools(truth, perfect(truth)).stats[0] == 1 - 2**-52


def test_ground_truth_in_float32_through_the_evaluator_scores_one():
    truth = Truth(OBJECTS)
    evaluator = CocoEvaluator(truth)
    for image_id in range(3):
        own = [(category_id, bbox) for image, category_id, bbox in OBJECTS if image == image_id]
        boxes = box_convert(torch.tensor([bbox for _, bbox in own]).reshape(-1, 4), "xywh", "xyxy")
        labels = torch.tensor([truth.category_ids.index(category_id) + 1 for category_id, _ in own], dtype=torch.int64)
        evaluator.process(
            [{"image_id": image_id}], [{"boxes": boxes, "labels": labels, "scores": torch.ones(len(own))}]
        )
    assert evaluator.evaluate()["bbox"]["AP"] == 1.0


def test_no_predictions_score_zero_where_there_are_objects(score):
    scores = score(Truth(OBJECTS), [])
    assert {name: scores[name] for name in TWELVE} == {name: None if name[2:] == "s" else 0.0 for name in TWELVE}
    assert scores["per_class"] == {"cat": 0.0, "dog": 0.0}


def test_without_any_object_everything_is_undefined(score):
    scores = score(Truth([]), [prediction(0, 7, [1, 2, 3, 4])])
    assert {scores[name] for name in TWELVE} == {None}
    assert scores["per_class"] == {"cat": None, "dog": None}


def test_a_false_positive_between_two_true_ones_costs_what_arithmetic_says(score):
    truth = Truth([(0, 7, [0, 0, 50, 50]), (1, 7, [0, 0, 50, 50])])
    predictions = [
        prediction(0, 7, [0, 0, 50, 50], 0.9),
        prediction(2, 7, [0, 0, 50, 50], 0.8),
        prediction(1, 7, [0, 0, 50, 50], 0.7),
    ]
    # precision is 1 at the 51 recalls 0.00 ... 0.50 and 2/3 at the other 50
    assert score(truth, predictions)["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_an_iou_of_62_percent_counts_at_three_of_the_ten_thresholds(score):
    truth = Truth([(0, 7, [0, 0, 100, 100])])
    scores = score(truth, [prediction(0, 7, [0, 0, 62, 100])])
    assert (scores["AP50"], scores["AP75"]) == (1.0, 0.0)
    assert [scores[name] for name in ("AP", "APl", "AR1", "ARl")] == pytest.approx([3 / 10] * 4)


def test_sizes_are_told_apart_at_32_and_96_pixels(score):
    truth = Truth([(0, 7, [0, 0, 20, 20]), (1, 7, [0, 0, 50, 50]), (2, 7, [0, 0, 200, 200])])
    small, _, large = perfect(truth)
    scores = score(truth, [small, large])
    assert [scores[name] for name in ("APs", "APm", "APl", "ARs", "ARm", "ARl")] == [1, 0, 1, 1, 0, 1]


def test_a_detection_in_a_crowd_neither_gains_nor_costs(score):
    truth = Truth([(0, 7, [0, 0, 50, 50]), (0, 7, [100, 100, 200, 200])])
    truth.document["annotations"][1]["iscrowd"] = 1
    in_the_crowd = prediction(0, 7, [120, 120, 40, 40], 0.95)
    assert score(truth, [in_the_crowd, *perfect(truth)[:1]])["AP"] == 1.0


THREE = Truth([(0, 7, [0, 0, 50, 50]), (0, 7, [100, 0, 50, 50]), (0, 7, [200, 0, 50, 50])])


@pytest.mark.parametrize("limits", [[2], [2, 1], (1, 2)])
def test_ap_is_read_at_the_most_detections_asked_for(score, limits):
    scores = score(THREE, perfect(THREE), limits)
    assert scores["AR2"] == scores["ARm"] == pytest.approx(2 / 3)
    assert [scores[name] for name in ("AP", "AP50", "APm")] == pytest.approx([67 / 101] * 3)  # recalls 0.00 ... 0.66


def test_more_than_three_numbers_of_detections_all_count(score):
    truth = Truth([(0, 7, [3 * n, 0, 2, 2]) for n in range(200)])
    scores = score(truth, perfect(truth), [1, 10, 100, 150, 300])
    assert list(scores)[6:11] == ["AR1", "AR10", "AR100", "AR150", "AR300"]
    assert [scores[name] for name in list(scores)[6:11]] == pytest.approx([1 / 200, 10 / 200, 100 / 200, 150 / 200, 1])
    assert scores["AP"] == 1.0


def test_other_iou_thresholds_average_over_themselves(score):
    truth = Truth([(0, 7, [0, 0, 100, 100])])
    scores = score(truth, [prediction(0, 7, [0, 0, 62, 100])], iou_thresholds=[0.75, 0.3, 0.6, 0.7])
    assert scores["AP"] == pytest.approx(2 / 4)
    assert scores["AP75"] == 0.0 and scores["AP50"] is None


@pytest.mark.parametrize(
    "keys", [{"MAX_DETECTIONS": []}, {"MAX_DETECTIONS": [0, 10]}, {"IOU_THRESHOLDS": []}, {"IOU_THRESHOLDS": [50.0]}]
)
def test_impossible_settings_are_refused_when_the_evaluator_is_built(keys):
    (key,) = keys
    with pytest.raises(UserError, match=f"CocoEvaluator: {key.lower()}"):
        EVALUATORS.build({"NAME": "CocoEvaluator", **keys}, Truth(OBJECTS))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (prediction(0, 8, [1, 2, 3, 4]), r"category_id 8; the data set's are 7 \(cat\), 42 \(dog\)$"),
        (prediction("0", 7, [1, 2, 3, 4]), "image_id '0'; the data set's are 0, 1, 2"),
        (prediction(0, 7, [1, 2, 3]), "prediction 1: expected image_id"),
        (prediction(0, 7, [1, 2, 3, float("nan")]), "prediction 1: .*finite"),
        (prediction(0, 7, [1, 2, 3, 4], float("inf")), "prediction 1: .*finite"),
        ({"image_id": 0, "category_id": 7, "bbox": [1, 2, 3, 4]}, "prediction 1: .*score"),
        ({"image_id": 0, "bbox": [1, 2, 3, 4], "score": 0.5}, "prediction 1: .*category_id"),
        ("cat", "prediction 1: expected"),
        (prediction(0, 7, [1, 2, 3, 4], 10**400), "prediction 1: .*finite"),
        (prediction([0], 7, [1, 2, 3, 4]), "prediction 1: expected image_id"),
        (prediction(0, {"id": 7}, [1, 2, 3, 4]), "prediction 1: expected image_id, category_id"),
    ],
)
def test_a_wrong_prediction_is_named(wrong, message):
    with pytest.raises(UserError, match=message):
        score_predictions(Truth(OBJECTS), [prediction(0, 7, [1, 2, 3, 4]), wrong])


@pytest.mark.parametrize("start", [0, 1])
def test_classes_counted_instead_of_category_ids_are_recognized(start):
    predictions = [prediction(0, start, [1, 2, 3, 4]), prediction(0, start + 1, [1, 2, 3, 4])]
    with pytest.raises(UserError, match=f"they seem to count the classes from {start}, but category ids are expected"):
        score_predictions(Truth(OBJECTS), predictions)


def test_something_other_than_a_list_is_refused():
    with pytest.raises(UserError, match="expected a list of COCO results, got a dict"):
        score_predictions(Truth(OBJECTS), {"annotations": []})


def test_scoring_changes_neither_side_and_prints_nothing(score, capsys):
    truth = Truth(OBJECTS)
    predictions = [{**p, "area": 1e9, "iscrowd": 1, "id": 0} for p in perfect(truth)]
    before = copy.deepcopy((truth.document, predictions))
    assert score(truth, predictions)["APm"] == 1.0  # an area in the file has no say
    assert (truth.document, predictions) == before
    assert capsys.readouterr().out == ""


def detected(boxes, labels, scores):
    return {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels), "scores": torch.tensor(scores)}


def test_predictions_are_coco_results_ready_for_json():
    evaluator = CocoEvaluator(Truth(OBJECTS, category_ids=np.array([7, 42])))
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    some = detected([[10.0, 20.0, 40.0, 60.0], [1.0, 2.0, 4.0, 8.0]], [2, 1], [0.5, 0.25])
    evaluator.process([{"image_id": 1}, {"image_id": torch.tensor(2)}], [nothing, some])
    assert json.loads(json.dumps(evaluator.predictions())) == [
        {"image_id": 2, "category_id": 42, "bbox": [10.0, 20.0, 30.0, 40.0], "score": 0.5},
        {"image_id": 2, "category_id": 7, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.25},
    ]
    assert some["boxes"][0].tolist() == [10, 20, 40, 60]


def test_saved_predictions_score_what_the_evaluator_scores():
    truth, predictions = random_case(1)
    evaluator = CocoEvaluator(truth)
    for image_id in range(8):
        own = [p for p in predictions if p["image_id"] == image_id]
        boxes = box_convert(torch.tensor([p["bbox"] for p in own]).reshape(-1, 4), "xywh", "xyxy")
        labels = [truth.category_ids.index(p["category_id"]) + 1 for p in own]
        evaluator.process(
            [{"image_id": image_id}],
            [{"boxes": boxes, "labels": torch.tensor(labels), "scores": torch.tensor([p["score"] for p in own])}],
        )
    saved = json.loads(json.dumps(evaluator.predictions()))
    assert score_predictions(truth, saved) == evaluator.evaluate()["bbox"]
    assert json.loads(json.dumps(evaluator.evaluate())) == evaluator.evaluate()


@pytest.mark.parametrize("label", [0, 3])
def test_a_label_outside_the_classes_is_named_with_its_image(label):
    with pytest.raises(UserError, match=f"image 5: detected label {label}.* 2 classes, labels 1 to 2"):
        CocoEvaluator(Truth(OBJECTS)).process([{"image_id": 5}], [detected([[0.0, 0.0, 1.0, 1.0]], [label], [0.5])])


def test_an_image_processed_twice_counts_once_and_reset_forgets_it():
    evaluator = EVALUATORS.build({"NAME": "CocoEvaluator", "MAX_DETECTIONS": [100]}, Truth([(0, 7, [0, 0, 50, 50])]))
    for _ in range(2):
        evaluator.process([{"image_id": 0}], [detected([[0.0, 0.0, 50.0, 50.0]], [1], [0.5])])
    assert len(evaluator.predictions()) == 1
    assert evaluator.evaluate()["bbox"]["AP"] == 1.0
    evaluator.reset()
    assert evaluator.predictions() == [] and evaluator.evaluate()["bbox"]["AP"] == 0.0


def test_results_follow_what_is_processed_after_an_evaluation():
    evaluator = CocoEvaluator(Truth([(0, 7, [0, 0, 50, 50])]))
    assert evaluator.evaluate()["bbox"]["AP"] == 0.0
    evaluator.process([{"image_id": 0}], [detected([[0.0, 0.0, 50.0, 50.0]], [1], [0.5])])
    assert evaluator.evaluate()["bbox"]["AP"] == 1.0


def test_the_summary_says_how_many_detections_ar_counts_if_there_are_fewer():
    for limit, is_noted in ((3, False), (4, True)):
        evaluator = CocoEvaluator(THREE, max_detections=[1, limit])
        evaluator.load(perfect(THREE))
        note = "at most 3 detections per image, so AR4 counts no more than these"
        assert (note in evaluator.summary()) == is_noted


def test_the_summary_has_every_number_and_every_class():
    truth = Truth(OBJECTS[:1], classes=("cat", "12"))  # a name that looks like a number stays a name
    evaluator = CocoEvaluator(truth)
    lines = [line.split() for line in evaluator.summary().splitlines()]
    assert lines[0] == TWELVE
    assert lines[2] == ["0.000", "0.000", "0.000", "n/a", "0.000", "n/a"] + ["0.000"] * 3 + ["n/a", "0.000", "n/a"]
    assert lines[4] == ["class", "AP"] and lines[6:8] == [["cat", "0.000"], ["12", "n/a"]]
    assert " ".join(lines[9]).startswith("AP is under 0.01. Likely cause: no detections for 1 objects")
    evaluator.load(perfect(truth))
    assert evaluator.summary().startswith(summarize(evaluator.evaluate()["bbox"]) + "\n\nat most 1 detections")
    assert "n/a" in evaluator.summary()


@pytest.mark.parametrize("backend", ["pycocotools", "faster_coco_eval"])
def test_loaded_predictions_come_out_as_they_went_in_and_score_the_same(backend):
    truth, predictions = random_case(2)
    evaluator = CocoEvaluator(truth, backend=backend)
    evaluator.process([{"image_id": 0}], [detected([[0.0, 0.0, 1.0, 1.0]], [1], [0.5])])
    evaluator.load(predictions)

    def ordered(rows):
        return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))

    assert ordered(evaluator.predictions()) == ordered(predictions)
    assert evaluator.evaluate()["bbox"] == score_predictions(truth, predictions, backend=backend)
    evaluator.load([])
    assert evaluator.predictions() == [] and evaluator.evaluate()["bbox"]["AP"] == 0.0


@pytest.mark.parametrize("missing", ["faster_coco_eval", "pycocotools.cocoeval"])
def test_auto_takes_the_faster_back_end_where_it_is_installed_and_else_the_reference(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    evaluator = CocoEvaluator(Truth(OBJECTS))
    assert evaluator.backend == "auto"
    assert evaluator.evaluate()["bbox"]["AP"] == 0
    with pytest.raises((ImportError, UserError)):
        CocoEvaluator(Truth(OBJECTS), backend=missing.split(".")[0])


SIDES = [("tiny", 0, 16), ("s", 16, 50), ("huge", 50, 300)]


@pytest.mark.parametrize("backend", ["pycocotools", "faster_coco_eval"])
def test_area_ranges_are_pycocotools_run_with_these_ranges(backend):
    if backend == "faster_coco_eval":
        pytest.importorskip("faster_coco_eval")
    boxes = [[10.0 * n, 5.0, side, side] for n, side in enumerate((8, 16, 20, 49, 60, 200))]
    truth = Truth([(n % 3, 7, box) for n, box in enumerate(boxes)])
    predictions = perfect(truth)
    for row in predictions[1::2]:
        row["bbox"] = [row["bbox"][0], 5.0, row["bbox"][2] * 0.8, row["bbox"][3]]
    evaluator = CocoEvaluator(truth, area_ranges=SIDES, backend=backend)
    evaluator.load(predictions)
    scores = evaluator.evaluate()["bbox"]
    assert [name for name in scores if name.startswith("AP")] == ["AP", "AP50", "AP75", "APtiny", "APs", "APhuge"]

    document = copy.deepcopy(truth.document)
    for number, row in enumerate(document["annotations"], 1):
        row |= {"id": number, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3]}
    coco = COCO()
    coco.dataset = document
    coco.createIndex()
    for name, low, high in SIDES:
        reference = COCOeval(coco, coco.loadRes(copy.deepcopy(predictions)), "bbox")
        reference.params.areaRng, reference.params.areaRngLbl = [[low**2, high**2]], ["all"]
        reference.evaluate()
        reference.accumulate()
        for prefix, table in (
            ("AP", reference.eval["precision"][..., 0, -1]),
            ("AR", reference.eval["recall"][:, :, 0, -1]),
        ):
            assert scores[f"{prefix}{name}"] == pytest.approx(table[table > -1].mean()), name


@pytest.mark.parametrize("entry", [["s", 0], ["s1", 0, 32], ["s", 32, 32], ["s", -1, 5], [1, 2, 3], ["s", "a", 3]])
def test_an_area_range_without_a_name_and_two_ascending_sizes_is_refused(entry):
    with pytest.raises(UserError, match="area_ranges: expected"):
        EVALUATORS.build({"NAME": "CocoEvaluator", "AREA_RANGES": [entry]}, Truth(OBJECTS))
    with pytest.raises(UserError, match="area_ranges: expected different names, got s, s"):
        EVALUATORS.build({"NAME": "CocoEvaluator", "AREA_RANGES": [["s", 0, 1], ["s", 1, 2]]}, Truth(OBJECTS))
