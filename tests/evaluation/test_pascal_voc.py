"""VOC's AP: cases worked out by arithmetic, and a second implementation of the development kit's rules."""

import json

import numpy as np
import pytest
from development_kit import development_kit, largest_difference
from PIL import Image

from detlite.data import PascalVOCDataset
from detlite.errors import UserError
from detlite.evaluation.pascal_voc import PascalVOCEvaluator, average_precisions
from detlite.registry import EVALUATORS

A, B = [0, 0, 100, 100], [300, 0, 100, 100]


def voc(evaluator):
    return evaluator.evaluate()["voc"]


@pytest.mark.parametrize("metric", ["11 points", "area"])
def test_several_classes_a_duplicate_an_absent_class_and_difficult_objects(make_truth, feed, metric):
    truth = make_truth(
        [
            (0, 1, A, False),
            (1, 1, A, False),
            (0, 2, A, True),  # difficult
            (1, 2, B, False),
            (2, 3, A, False),
        ],
        classes=("cat", "dog", "cow", "absent"),
    )
    detections = [
        (0, 1, A, 0.9),  # right
        (0, 1, A, 0.8),  # a duplicate: wrong
        (1, 1, A, 0.7),  # right
        (0, 2, A, 0.95),  # on a difficult object: left out
        (0, 2, A, 0.94),  # once more: left out
        (1, 2, B, 0.5),  # right
        (0, 4, A, 0.99),  # of a class without objects
    ]
    scores = voc(feed(PascalVOCEvaluator(truth, metric=metric), detections))
    # cat: right, wrong, right for 2 objects: precision 1 up to recall 1/2, then 2/3; dog: 1; cow: nothing found
    cat = {"11 points": (6 * 1 + 5 * 2 / 3) / 11, "area": 1 / 2 * 1 + 1 / 2 * 2 / 3}
    assert scores["per_class"] == pytest.approx({"cat": cat[metric], "dog": 1.0, "cow": 0.0, "absent": None})
    assert scores["AP11"] == pytest.approx((cat["11 points"] + 1 + 0) / 3)
    assert scores["APArea"] == pytest.approx((cat["area"] + 1 + 0) / 3)
    assert scores["AP"] == {"11 points": scores["AP11"], "area": scores["APArea"]}[metric]


def test_a_difficult_object_that_is_missed_costs_nothing_and_alone_it_makes_no_class(make_truth, feed):
    truth = make_truth([(0, 1, A, False), (0, 1, B, True), (1, 2, A, True)])
    scores = voc(feed(PascalVOCEvaluator(truth), [(0, 1, A, 0.9)]))
    assert scores["per_class"] == {"cat": 1.0, "dog": None, "cow": None} and scores["AP"] == 1.0


def test_a_detection_is_judged_by_the_object_that_it_overlaps_most_even_if_that_is_taken(make_truth, feed):
    truth = make_truth([(0, 1, [0, 0, 100, 100], False), (0, 1, [30, 0, 100, 100], False)])
    detections = [(0, 1, [0, 0, 100, 100], 0.9), (0, 1, [10, 0, 100, 100], 0.8)]
    # the second overlaps the first object by 90 / 110, the second object by 80 / 120: COCO would give it that one
    assert voc(feed(PascalVOCEvaluator(truth, metric="area"), detections))["AP"] == 1 / 2


def test_an_iou_of_exactly_the_threshold_is_enough(make_truth, feed):
    truth = make_truth([(0, 1, [0, 0, 100, 100], False)])
    for width, ap in ((50, 1.0), (49.99, 0.0)):
        assert voc(feed(PascalVOCEvaluator(truth), [(0, 1, [0, 0, width, 100], 0.9)]))["AP"] == ap
    assert voc(feed(PascalVOCEvaluator(truth, iou_threshold=0.51), [(0, 1, [0, 0, 50, 100], 0.9)]))["AP"] == 0.0


@pytest.mark.parametrize("positives", [10, 20, 30, 70])
def test_a_recall_of_exactly_three_tenths_reaches_the_point_at_three_tenths(positives):
    at_points, area = average_precisions(np.ones(3 * positives // 10, bool), positives)
    assert at_points == pytest.approx(4 / 11) and area == pytest.approx(3 / 10)


def test_no_detections_score_zero_and_no_objects_are_undefined(make_truth):
    scores = voc(PascalVOCEvaluator(make_truth([(0, 1, A, False)])))
    assert (scores["AP"], scores["AP11"], scores["APArea"]) == (0.0, 0.0, 0.0)
    assert scores["per_class"] == {"cat": 0.0, "dog": None, "cow": None}
    scores = voc(PascalVOCEvaluator(make_truth([])))
    assert (scores["AP"], scores["AP11"], scores["APArea"]) == (None, None, None)


@pytest.mark.parametrize("seed", range(12))
def test_random_cases_score_as_by_the_development_kit(make_truth, feed, seed):
    draw = np.random.default_rng(seed)

    def box(near=None):
        if near is None:
            return [*draw.integers(0, 200, 2).tolist(), *draw.integers(20, 100, 2).tolist()]
        return [int(n + draw.integers(-9, 10)) for n in near]

    objects = [(int(draw.integers(4)), int(draw.integers(1, 4)), box(), bool(draw.random() < 0.2)) for _ in range(20)]
    detections = [
        (image, label, box(near), round(float(draw.random()), 2))
        for image, label, near, _ in objects * 2
        if draw.random() < 0.8
    ] + [(int(draw.integers(4)), int(draw.integers(1, 4)), box(), float(draw.random())) for _ in range(20)]
    detections = list({row[3]: row for row in detections}.values())  # no ties
    scores = {
        metric: voc(feed(PascalVOCEvaluator(make_truth(objects, images=4), metric=metric), detections))["per_class"]
        for metric in ("11 points", "area")
    }
    for label, name in enumerate(("cat", "dog", "cow"), 1):
        expected = development_kit(
            [(image, b, difficult) for image, k, b, difficult in objects if k == label],
            [(image, b, score) for image, k, b, score in detections if k == label],
            0.5,
        )
        found = scores["11 points"][name], scores["area"][name]
        assert found == pytest.approx(expected or (None, None), rel=0, abs=1e-12)


def test_saved_predictions_score_as_by_the_development_kit(make_truth, feed):
    truth = make_truth([(0, 1, A, False), (0, 1, B, True), (1, 2, A, False), (1, 2, B, False)])
    detections = [(0, 1, A, 0.5), (0, 1, B, 0.6), (1, 1, A, 0.7), (1, 2, A, 0.8), (1, 2, [310, 0, 100, 100], 0.3)]
    evaluator = feed(PascalVOCEvaluator(truth), detections)
    assert largest_difference(truth, evaluator.predictions()) <= 1e-12
    assert voc(evaluator)["per_class"] == pytest.approx({"cat": 0.5, "dog": 1.0, "cow": None})


def test_ground_truth_of_a_voc_folder_as_detections_scores_one(tmp_path):
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    things = [("dog", 0, (11, 6, 30, 25)), ("cat", 1, (1, 1, 60, 40)), ("cat", 0, (5, 5, 5, 5))]
    (tmp_path / "Annotations/a.xml").write_text(
        "<annotation>"
        + "".join(
            f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for name, difficult, (x1, y1, x2, y2) in things
        )
        + "</annotation>"
    )
    Image.new("RGB", (60, 40)).save(tmp_path / "JPEGImages/a.jpg")
    (tmp_path / "ImageSets/Main/test.txt").write_text("a\n")
    dataset = PascalVOCDataset(root=str(tmp_path), image_sets=["test"])
    evaluator = EVALUATORS.build({"NAME": "PascalVOCEvaluator"}, dataset)
    _, target = dataset[0]
    evaluator.process([target], [{**target, "scores": target["labels"] / 20}])
    scores = voc(evaluator)
    assert scores["AP"] == scores["APArea"] == scores["per_class"]["dog"] == scores["per_class"]["cat"] == 1.0
    assert scores["per_class"]["sofa"] is None
    assert json.loads(json.dumps(scores)) == scores


def test_the_summary_has_both_means_and_every_class(make_truth, feed):
    truth = make_truth([(0, 1, A, False), (1, 1, A, False)])
    summary = feed(PascalVOCEvaluator(truth, metric="area"), [(0, 1, A, 0.9)]).summary()
    rows = [line.rsplit(maxsplit=1) for line in summary.splitlines()]
    assert "area, IoU 0.5" in summary.splitlines()[0]
    assert rows[2:] == [
        ["mean, 11 points", f"{6 / 11:.3f}"],
        ["mean, area", "0.500"],
        ["cat", "0.500"],
        ["dog", "n/a"],
        ["cow", "n/a"],
    ]


@pytest.mark.parametrize("iou", [0.0, 1.01, 50.0])
def test_an_impossible_threshold_is_refused(make_truth, iou):
    with pytest.raises(UserError, match="PascalVOCEvaluator: iou_threshold"):
        EVALUATORS.build({"NAME": "PascalVOCEvaluator", "IOU_THRESHOLD": iou}, make_truth([]))
