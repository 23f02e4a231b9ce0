"""Precision, recall, F1, confusions and proposal recall: by arithmetic, and AP against pycocotools."""

import json

import numpy as np
import pytest

from detlite.errors import UserError
from detlite.evaluation.analysis import DetectionAnalysis, choose_thresholds
from detlite.evaluation.coco import CocoEvaluator
from detlite.registry import EVALUATORS

A, B, C = [0, 0, 100, 100], [300, 0, 100, 100], [0, 300, 100, 100]


def ratios(result):
    return [result[name] for name in ("precision", "recall", "f1")]


def counts(result):
    return [result[name] for name in ("right", "wrong", "missed")]


def test_precision_recall_and_f1_count_detections_from_the_chosen_score_on(make_truth, feed):
    truth = make_truth([(0, 1, A, False), (0, 1, B, False), (1, 1, A, False), (2, 2, A, False)])
    detections = [
        (0, 1, A, 0.9),  # right
        (0, 1, A, 0.8),  # duplicate
        (0, 1, B, 0.5),  # right, just
        (1, 1, A, 0.49),  # right, but under the threshold
        (2, 1, B, 0.6),  # nothing there
    ]
    results = feed(DetectionAnalysis(truth), detections).evaluate()["analysis"]
    cat, dog, cow = results["per_class"].values()
    assert counts(cat) == [2, 2, 1] and ratios(cat) == pytest.approx([2 / 4, 2 / 3, 2 * 2 / (4 + 3)])
    assert counts(dog) == [0, 0, 1] and ratios(dog) == [None, 0.0, 0.0] and dog["AP"] == 0.0
    assert counts(cow) == [0, 0, 0] and ratios(cow) == [None, None, None] and cow["AP"] is None
    assert counts(results["all"]) == [2, 2, 2]
    assert ratios(results["all"]) == pytest.approx([2 / 4, 2 / 4, 2 * 2 / (4 + 4)])


def test_thresholds_have_the_best_f1_or_at_least_the_wanted_precision(make_truth, feed):
    truth = make_truth([(0, 1, A, False), (0, 1, B, False), (1, 1, A, False), (1, 2, A, False)])
    detections = [
        (0, 1, A, 0.9),  # right: precision 1, recall 1 / 3, F1 2 / 4
        (0, 1, C, 0.8),  # wrong
        (0, 1, B, 0.7),  # right: precision 2 / 3, recall 2 / 3, F1 4 / 6
        (2, 1, A, 0.6),  # wrong
        (2, 1, B, 0.5),  # wrong
        (1, 1, A, 0.4),  # right: precision 3 / 6, recall 1, F1 6 / 9
        (1, 2, B, 0.3),  # wrong
    ]
    predictions = feed(DetectionAnalysis(truth), detections).predictions()
    expected = {
        "f1": [0.4, 1 / 2, 1, 2 / 3],
        0.5: [0.4, 1 / 2, 1, 2 / 3],
        0.6: [0.7, 2 / 3, 2 / 3, 2 / 3],
        1.0: [0.9, 1, 1 / 3, 0.5],
    }
    for goal, numbers in expected.items():
        cat, dog, cow = choose_thresholds(truth, predictions, goal).values()
        assert list(cat) == ["threshold", "precision", "recall", "f1"] and list(cat.values()) == pytest.approx(numbers)
        assert list(dog.values()) == list(cow.values()) == [None] * 4


def test_another_iou_and_score_change_what_is_right(make_truth, feed):
    truth = make_truth([(0, 1, A, False)])
    detections = [(0, 1, [0, 0, 62, 100], 0.3)]
    keys = {"NAME": "DetectionAnalysis", "SCORE_THRESHOLD": 0.3, "IOU_THRESHOLD": 0.6}
    assert counts(feed(EVALUATORS.build(keys, truth), detections).evaluate()["analysis"]["all"]) == [1, 0, 0]
    keys |= {"IOU_THRESHOLD": 0.63}
    assert counts(feed(EVALUATORS.build(keys, truth), detections).evaluate()["analysis"]["all"]) == [0, 1, 1]


def test_the_confusion_matrix_has_true_classes_as_rows_and_the_background_first(make_truth, feed):
    truth = make_truth(
        [(0, 1, A, False), (0, 2, B, False), (1, 2, A, False), (1, 3, B, False), (2, 3, A, False), (2, 1, C, True)]
    )
    detections = [
        (0, 1, A, 0.9),  # cat as cat
        (0, 2, A, 0.95),  # and as dog: the cat is taken by its own class, so this is dog of nothing
        (0, 3, B, 0.8),  # dog as cow
        (1, 2, A, 0.7),  # dog as dog
        (1, 1, B, 0.6),  # cow as cat
        (1, 2, B, 0.65),  # the same cow as dog, and surer of it
        (2, 1, C, 0.9),  # in a crowd of cats: left out
        (2, 3, A, 0.2),  # cow as cow, under the threshold
    ]
    results = feed(DetectionAnalysis(truth), detections).evaluate()
    assert results["confusion_matrix"] == {
        "names": ["background", "cat", "dog", "cow"],
        "counts": [
            [0, 1, 1, 0],
            [0, 1, 0, 0],
            [0, 0, 1, 1],
            [1, 0, 1, 0],
        ],
    }
    per_class = results["analysis"]["per_class"]
    assert [counts(row) for row in per_class.values()] == [[1, 1, 0], [1, 2, 1], [0, 1, 2]]


def random_case(seed):
    draw = np.random.default_rng(seed)

    def box():
        return [*draw.uniform(0, 300, 2), *draw.uniform(4, 200, 2)]

    objects = [(int(draw.integers(5)), int(draw.integers(1, 4)), box(), bool(draw.random() < 0.15)) for _ in range(25)]
    detections = [
        (image, label, [number * draw.uniform(0.9, 1.1) for number in bbox], round(float(draw.random()), 1))
        for image, label, bbox, _ in objects * 2
        if draw.random() < 0.8
    ]
    detections += [
        (int(draw.integers(5)), int(draw.integers(1, 4)), box(), round(float(draw.random()), 1)) for _ in range(100)
    ]
    return objects, detections


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("iou", [0.5, 0.75])
def test_ap_at_one_iou_is_pycocotools_own(make_truth, feed, seed, iou):
    objects, detections = random_case(seed)
    truth = make_truth(objects, images=5)
    reference = CocoEvaluator(truth, max_detections=[1000], iou_thresholds=[iou])
    expected = feed(reference, detections).evaluate()["bbox"]
    ours = feed(DetectionAnalysis(truth, iou_threshold=iou), detections).evaluate()["analysis"]
    assert {name: row["AP"] for name, row in ours["per_class"].items()} == pytest.approx(
        expected["per_class"], abs=1e-12
    )
    assert ours["all"]["AP"] == pytest.approx(expected["AP"], abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_the_confusion_matrix_sum_to_objects_and_the_table_agrees(make_truth, feed, seed):
    objects, detections = random_case(seed)
    results = feed(DetectionAnalysis(make_truth(objects, images=5)), detections).evaluate()
    matrix = np.array(results["confusion_matrix"]["counts"])
    for label, row in enumerate(results["analysis"]["per_class"].values(), 1):
        assert matrix[label].sum() == sum(k == label and not crowd for _, k, _, crowd in objects)
        assert counts(row) == [
            matrix[label, label],
            matrix[:, label].sum() - matrix[label, label],
            matrix[label].sum() - matrix[label, label],
        ]
    assert matrix[0, 0] == 0


def test_precision_recall_points_are_where_objects_were_found(make_truth, feed):
    truth = make_truth([(0, 1, A, False), (1, 1, A, False), (2, 1, A, False), (2, 1, B, False)])
    detections = [(0, 1, A, 0.9), (0, 1, B, 0.8), (1, 1, A, 0.3), (2, 1, A, 0.2), (2, 1, C, 0.1)]
    tables = feed(DetectionAnalysis(truth), detections).tables()
    assert tables["precision_recall"] == [
        {"class": "cat", "score": 0.9, "recall": 1 / 4, "precision": 1.0},
        {"class": "cat", "score": 0.3, "recall": 2 / 4, "precision": 2 / 3},
        {"class": "cat", "score": 0.2, "recall": 3 / 4, "precision": 3 / 4},
    ]
    assert tables["confusion_matrix"][1] == {"true": "cat", "background": 3, "cat": 1, "dog": 0, "cow": 0}
    assert [row["class"] for row in tables["per_class"]] == ["cat", "dog", "cow", "all"]
    assert json.loads(json.dumps(tables)) == tables


def corners(x, y, width, height):
    return [x, y, x + width, y + height]


def test_a_proposal_finds_one_object_at_each_iou_that_it_reaches(make_truth, feed):
    truth = make_truth([(0, 1, A, False), (0, 2, A, False), (1, 1, B, False), (2, 1, C, True)])
    proposals = {0: [corners(0, 0, 62, 100), corners(500, 0, 9, 9)], 1: [corners(*B)], 2: []}
    results = feed(DetectionAnalysis(truth), [], proposals).evaluate()["proposals"]
    # one of two objects of image 0 at 0.5, 0.55 and 0.6; that of image 1 at all ten; the crowd does not count
    assert results == {"AR@100": pytest.approx((3 / 10 + 1) / 3), "AR@300": None, "AR@1000": None}


def test_only_the_best_proposals_count(make_truth, feed):
    truth = make_truth([(0, 1, A, False), (0, 1, B, False), (0, 1, C, False), (0, 2, [300, 300, 50, 50], False)])
    nowhere = corners(600, 400, 5, 5)
    proposals = [nowhere] * 1001
    for index, box in ((99, A), (299, B), (999, C), (1000, [300, 300, 50, 50])):
        proposals[index] = corners(*box)
    results = feed(DetectionAnalysis(truth), [], {0: proposals}).evaluate()["proposals"]
    assert results == {"AR@100": 1 / 4, "AR@300": 2 / 4, "AR@1000": 3 / 4}


def test_the_closest_pair_of_proposal_and_object_is_taken_first(make_truth, feed):
    truth = make_truth([(0, 1, [0, 0, 100, 100], False), (0, 1, [20, 0, 100, 100], False)])
    proposals = {0: [corners(10, 0, 100, 100), corners(0, 0, 100, 100)]}
    # the second proposal is the first object's; the first then has the second object, by 90 / 110 = 0.818: 7 of 10
    results = feed(DetectionAnalysis(truth), [], proposals).evaluate()["proposals"]
    assert results["AR@100"] == pytest.approx((1 + 7 / 10) / 2)


def test_without_proposals_or_objects_proposal_recall_is_undefined(make_truth, feed):
    undefined = {"AR@100": None, "AR@300": None, "AR@1000": None}
    assert DetectionAnalysis(make_truth([(0, 1, A, False)])).evaluate()["proposals"] == undefined
    assert feed(DetectionAnalysis(make_truth([])), [], {0: [corners(*A)]}).evaluate()["proposals"] == undefined
    evaluator = feed(DetectionAnalysis(make_truth([(0, 1, A, False)])), [], {0: [corners(*A)]})
    assert evaluator.evaluate()["proposals"]["AR@100"] == 1.0
    evaluator.reset()
    assert evaluator.evaluate()["proposals"] == undefined


def test_nothing_on_either_side_is_fine_and_ready_for_json(make_truth, feed):
    for objects in ([], [(0, 1, A, False)]):
        for detections in ([], [(0, 2, A, 0.9)]):
            evaluator = feed(DetectionAnalysis(make_truth(objects)), detections)
            assert json.loads(json.dumps(evaluator.evaluate(), allow_nan=False)) == evaluator.evaluate()
            assert evaluator.summary().endswith("proposals: n/a")


def test_the_summary_is_a_row_a_class(make_truth, feed):
    truth = make_truth([(0, 1, A, False), (1, 1, A, False)])
    lines = feed(DetectionAnalysis(truth), [(0, 1, A, 0.9)], {0: [corners(*A)]}).summary().splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    # 51 of the 101 recalls 0.00 ... 1.00 are reached
    assert rows["cat"] == [f"{51 / 101:.3f}", "1.000", "0.500", f"{2 / 3:.3f}", "1", "0", "1"] == rows["all"]
    assert rows["dog"] == ["n/a"] * 4 + ["0"] * 3
    assert lines[-1] == "proposals: AR@1 0.500"


def test_the_summary_names_a_recall_by_the_proposals_that_exist(make_truth, feed):
    truth = make_truth([(0, 1, A, False), (0, 1, B, False)])
    proposals = [corners(*A)] + [corners(600, 400, 5, 5)] * 249 + [corners(*B)]
    for most, expected in ((250, "AR@100 0.500, AR@250 0.500"), (251, "AR@100 0.500, AR@251 1.000")):
        summary = feed(DetectionAnalysis(truth), [], {0: proposals[:most], 1: proposals[:99]}).summary()
        assert summary.endswith(f"\nproposals: {expected}")


def test_recall_is_undefined_for_more_proposals_than_there_are(make_truth, feed):
    truth = make_truth([(0, 1, A, False), (1, 1, A, False)])
    for most, defined in ((100, 1), (101, 2), (300, 2), (301, 3)):
        results = feed(DetectionAnalysis(truth), [], {0: [corners(*A)] * most, 1: []}).evaluate()["proposals"]
        assert list(results.values()) == [0.5] * defined + [None] * (3 - defined)


def test_an_impossible_threshold_is_refused(make_truth):
    with pytest.raises(UserError, match="DetectionAnalysis: iou_threshold"):
        EVALUATORS.build({"NAME": "DetectionAnalysis", "IOU_THRESHOLD": 0.0}, make_truth([]))
