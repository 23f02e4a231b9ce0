"""The numbers of the report, which at every threshold equal DetectionAnalysis's; and its gallery."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from detlite.errors import UserError
from detlite.evaluation.analysis import DetectionAnalysis
from detlite.evaluation.coco import CocoEvaluator
from detlite.inspection.report.content import SIZES, report_content
from detlite.inspection.report.error_costs import ERRORS
from detlite.inspection.report.gallery import MOST, SIDE

A, B = [0, 0, 100, 100], [300, 0, 100, 100]


class Pictures:
    """A ground truth with images, each of a different gray; the image of id 1 is missing."""

    def __init__(self, truth):
        self.classes, self.category_ids, self.coco = truth.classes, truth.category_ids, truth.coco

    def __getitem__(self, index):
        if index == 1:
            raise UserError("no such image file")
        return torch.full((3, 480, 640), 30 * index, dtype=torch.uint8), {"image_id": index}


def content_of(truth, results, **run):
    evaluator = CocoEvaluator(truth)
    evaluator.load(results)
    run = {"name": "run", "metrics": {}, **run}
    return report_content(Pictures(truth), [{"predictions": results, "scores": evaluator.evaluate()["bbox"], **run}])


def at(content, kinds, label, threshold):
    """Count the detections of a class from a threshold on, as the page's script does."""
    place = content["thresholds"].index(threshold)
    counts = content["runs"][0]["counts"]
    return sum(count for kind in kinds for where, count in counts[kind][label] if where >= place)


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.29, 0.5, 0.57, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_the_slider_s_numbers_are_those_of_detection_analysis(random_results, seed, threshold):
    truth, results = random_results(seed)
    analysis = DetectionAnalysis(truth, score_threshold=threshold)
    analysis.load(results)
    expected = analysis.evaluate()["analysis"]["per_class"]
    content = content_of(truth, results)
    for label, name in enumerate(truth.classes):
        right, wrong = at(content, SIZES, label, threshold), at(content, ERRORS, label, threshold)
        assert (right, wrong) == (expected[name]["right"], expected[name]["wrong"])
        objects = sum(content["objects"][size][label] for size in SIZES)
        assert objects - right == expected[name]["missed"]
        assert content["runs"][0]["AP50"][label] == expected[name]["AP"]
    assert sum(row["right"] for row in expected.values()) > 0 or threshold == 1.0


def test_curves_and_confusions_are_those_of_detection_analysis(random_results):
    truth, results = random_results(5)
    analysis = DetectionAnalysis(truth)
    analysis.load(results)
    run = content_of(truth, results)["runs"][0]
    assert run["confusion"] == analysis.evaluate()["confusion_matrix"]
    for curve, ap in zip(run["curves"][:3], run["AP50"], strict=False):
        assert len(curve) == 101 and np.mean(curve) == pytest.approx(ap, abs=1e-4)
    assert run["curves"][3] is None and run["AP50"][3] is None


def test_sizes_are_those_of_the_annotations_areas_and_an_empty_file_is_no_fault(make_truth):
    truth = make_truth([(0, 1, [0, 0, 32, 31], False), (0, 1, [0, 50, 32, 32], False), (0, 2, [200, 0, 96, 96], False)])
    truth.coco()["annotations"][1]["area"] = 1000.0  # of a mask, smaller than its box
    content = content_of(truth, [])
    assert content["objects"] == {"small": [2, 0, 0], "medium": [0, 0, 0], "large": [0, 1, 0]}
    assert content["runs"][0]["scores"]["AP"] == 0
    assert {mistake["kind"] for mistake in content["runs"][0]["mistakes"]} == {"missed"}


def test_missed_objects_are_those_that_nothing_is_near_at_that_score(make_truth):
    truth = make_truth([(0, 1, A, False), (0, 1, B, False)])
    results = [{"image_id": 0, "category_id": 1, "bbox": A, "score": 0.5}]
    content = content_of(truth, results)
    assert [at(content, ["noticed"], 0, score) for score in (0.0, 0.5, 0.51)] == [1, 1, 0]


def test_the_gallery_shows_the_surest_mistake_of_every_class_and_kind_with_both_boxes(make_truth):
    truth = make_truth([(0, 1, A, False), (0, 2, B, False), (1, 2, A, False), (2, 2, [200, 100, 400, 300], False)])
    results = [
        {"image_id": 0, "category_id": 1, "bbox": [50, 0, 100, 100], "score": 0.9},  # localization, IoU 1/3
        {"image_id": 0, "category_id": 3, "bbox": [600, 400, 40, 80], "score": 0.8},  # background
        {"image_id": 0, "category_id": 3, "bbox": [500, 400, 40, 80], "score": 0.95},  # with a higher score
    ]
    mistakes = content_of(truth, results)["runs"][0]["mistakes"]
    keys = ("kind", "found", "true", "score", "iou", "file")
    assert [tuple(mistake[key] for key in keys) for mistake in mistakes] == [
        ("background", 3, None, 0.95, None, "0.jpg"),
        ("localization", 1, 1, 0.9, 0.3333, "0.jpg"),
        ("background", 3, None, 0.8, None, "0.jpg"),
        ("missed", None, 2, None, None, "2.jpg"),
        ("missed", None, 2, None, None, "0.jpg"),
        ("missed", None, 2, None, None, "1.jpg"),
    ]
    assert mistakes[5]["picture"] is None
    # Cut out: from x 0 (0 - 60) to 210 (150 + 60), y 0 to 160; no larger than SIDE, so it is not scaled.
    localization = mistakes[1]
    assert tuple(localization["size"]) == (210, 160)
    assert localization["boxes"] == {"found": [[50, 0, 150, 100]], "true": [[0, 0, 100, 100]]}
    # The large one: x from 40 to 640, y from 0 to 480, scaled by 240 / 600.
    large = mistakes[3]
    assert tuple(large["size"]) == (SIDE, 192)
    assert large["boxes"] == {"found": [], "true": [[64, 40, 224, 160]]}
    kind, _, encoded = large["picture"].partition("base64,")
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        assert kind == "data:image/jpeg;" and picture.size == (SIDE, 192)
        assert abs(picture.getpixel((9, 9))[0] - 60) <= 2


def test_the_gallery_is_bounded_and_leaves_no_class_out(make_truth):
    truth = make_truth([(0, 2, A, False)])
    results = [{"image_id": 0, "category_id": 1, "bbox": B, "score": 0.9}] * 500
    results += [{"image_id": 0, "category_id": 3, "bbox": B, "score": 0.1}]
    mistakes = content_of(truth, results)["runs"][0]["mistakes"]
    assert len(mistakes) == MOST
    assert {mistake["found"] for mistake in mistakes} == {1, 3, None}


def test_crowded_regions_are_cut_out_in_the_pixels_of_the_file(make_truth):
    """In 400-px cells, the second has 20 objects, of which 16 are missed; one of another image has 15, all found."""
    crowd = [[410 + 10 * n, 20, 8, 8] for n in range(20)]
    objects = [(0, 1, box, False) for box in [*crowd, *([9 * n, 200, 8, 8] for n in range(5))]]
    truth = make_truth(objects + [(2, 1, [9 * n, 200, 8, 8], False) for n in range(15)])
    detected = [(0, box, 0.9) for box in crowd[:4]] + [(0, [500, 300, 20, 30], 0.8), (0, [500, 300, 90, 90], 0.4)]
    detected += [(2, [9 * n, 200, 8, 8], 0.7) for n in range(15)]
    results = [{"image_id": i, "category_id": 1, "bbox": box, "score": score} for i, box, score in detected]
    first, second = content_of(truth, results)["runs"][0]["regions"]
    assert [(region["objects"], region["mistakes"]) for region in (first, second)] == [(20, 17), (15, 0)]
    assert tuple(first["size"]) == (240, 400)  # of the image's 640 x 480 px, from x 400 on
    assert first["boxes"]["right"] == [[10 + 10 * n, 20, 18 + 10 * n, 28] for n in range(4)]
    assert first["boxes"]["true"] == [[10 + 10 * n, 20, 18 + 10 * n, 28] for n in range(4, 20)]
    assert first["boxes"]["found"] == [[100, 300, 120, 330]]
    assert len(second["boxes"]["right"]) == 15 and not second["boxes"]["true"]


def test_of_many_classes_the_matrix_has_those_with_most_errors(make_truth):
    classes = [f"class {k}" for k in range(1, 61)]
    truth = make_truth([(0, k, A, False) for k in range(20, 61)], classes=classes)
    confusion = content_of(truth, [])["runs"][0]["confusion"]
    assert confusion["names"] == ["background", *classes[19:59]]
    assert np.array(confusion["counts"])[1:, 0].tolist() == [1] * 40


def test_it_is_json(random_results):
    truth, results = random_results(1)
    content = content_of(truth, results)
    assert json.loads(json.dumps(content, allow_nan=False))["runs"][0]["name"] == "run"
