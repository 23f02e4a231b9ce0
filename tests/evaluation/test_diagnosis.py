"""Each common mistake is made on purpose and must be named; without a mistake nothing is reported."""

import re

import numpy as np
import pytest

from detlite.evaluation.coco import CocoEvaluator
from detlite.evaluation.diagnosis import likely_cause

SIZES = [(640, 480), (500, 375), (375, 500), (300, 300), (800, 600), (1024, 400)]


def scene(seed=0, same_size=False):
    """Objects of three classes on 24 images, and a decent detector's findings: boxes jittered, misses, false ones."""
    draw = np.random.default_rng(seed)
    sizes = [SIZES[0] if same_size else SIZES[n % len(SIZES)] for n in range(24)]
    objects, detections = [], []
    for image, (width, height) in enumerate(sizes):

        def box(width=width, height=height):
            w, h = draw.uniform(0.15, 0.5, 2) * (width, height)
            return [draw.uniform(0, width - w), draw.uniform(0, height - h), w, h]

        for _ in range(4):
            label, (x, y, w, h) = int(draw.integers(1, 4)), box()
            objects.append((image, label, [x, y, w, h], False))
            if draw.random() < 0.8:
                moved = np.array([x, y, w, h]) + draw.normal(0, 0.03, 4) * (w, h, w, h)
                detections.append((image, label, moved.tolist(), float(draw.uniform(0.3, 1))))
        detections.append((image, int(draw.integers(1, 4)), box(), float(draw.uniform(0.05, 0.5))))
    return sizes, objects, detections


def as_results(detections, change=lambda box, size: box, sizes=None, ids=(1, 2, 3)):
    return [
        {
            "image_id": image,
            "category_id": ids[label - 1],
            "bbox": [float(number) for number in change(box, sizes[image] if sizes else None)],
            "score": score,
        }
        for image, label, box, score in detections
    ]


def cause_and_ap(make_truth, predictions, seed=0, same_size=False, **keys):
    sizes, objects, _ = scene(seed, same_size)
    truth = make_truth(objects, sizes=sizes, **keys)
    evaluator = CocoEvaluator(truth)
    evaluator.load(predictions)
    ap, cause = evaluator.evaluate()["bbox"]["AP"], likely_cause(truth, predictions)
    said = f"Likely cause: {cause}" if cause else "AP is under"
    assert (said in evaluator.summary()) == (ap < 0.01 and cause is not None)
    return ap, cause


def scaled(x, y):
    return lambda box, size: np.array(box) * (x, y, x, y)


def to_short_side(box, size):
    return np.array(box) * 800 / min(size)


def to_square(box, size):
    return np.array(box) * 512 / np.array([*size, *size])


def to_fractions(box, size):
    return np.array(box) / np.array([*size, *size])


MISTAKES = {
    "corners as width and height": (
        lambda b, _: (b[0], b[1], b[0] + b[2], b[1] + b[3]),
        r"boxes are \(x1, y1, x2, y2\), not",
    ),
    "width and height as corners": (
        lambda b, _: (b[0], b[1], b[2] - b[0], b[3] - b[1]),
        r"were converted to \(x, y, width, height\) twice",
    ),
    "centers": (lambda b, _: (b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]), "begin with their center"),
    "swapped axes": (lambda b, _: (b[1], b[0], b[3], b[2]), "x and y swapped"),
    "half": (scaled(0.5, 0.5), r"wrong scale: .* 0\.\d+ \(x\) and 0\.\d+ \(y\)"),
    "fractions": (to_fractions, "fractions of the images' width and height"),
    "resized": (
        to_short_side,
        "wrong scale: .* resized to a short side of 80[0-9]|wrong scale: .* short side of 79",
    ),
    "square": (to_square, r"wrong scale: .* resized to 5[01]\d(\.\d)? x 5[01]\d"),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_with_the_boxes_is_named(make_truth, mistake, seed):
    change, words = MISTAKES[mistake]
    sizes, _, detections = scene(seed)
    ap, cause = cause_and_ap(make_truth, as_results(detections, change, sizes), seed)
    assert ap < 0.05
    assert re.search(words, cause)


@pytest.mark.parametrize(
    ("change", "words"), [(scaled(0.4, 0.4), "wrong scale: .* 0.4"), (to_fractions, "fractions of the images")]
)
def test_a_scale_is_named_where_all_images_have_one_size(make_truth, change, words):
    sizes, _, detections = scene(same_size=True)
    _, cause = cause_and_ap(make_truth, as_results(detections, change, sizes), same_size=True)
    assert re.search(words, cause)


@pytest.mark.parametrize("ids", [(2, 3, 1), (3, 1, 2)])
def test_category_ids_that_do_not_meet_are_named_with_the_classes(make_truth, ids):
    _, _, detections = scene()
    ap, cause = cause_and_ap(make_truth, as_results(detections, ids=ids))
    assert ap < 0.01
    assert "the category ids are mixed up" in cause
    assert f"{['cat', 'dog', 'cow'][ids[0] - 1]} found where cat is" in cause


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_hardly_any_detections_are_named(make_truth, kept):
    _, _, detections = scene()
    ap, cause = cause_and_ap(make_truth, as_results(sorted(detections, key=lambda row: row[3])[:kept]))
    assert ap < 0.01
    assert f"{kept or 'no'} detections for 96 objects" in cause and "SCORE_THRESHOLD" in cause


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.24, 0.26, r"from 0\.24\d? to 0\.2[56]\d? \(guessing gives 1 / 4\)"),
        (0.2, 1, r"add up to 4\d\d objects, but there are 96;"),
    ],
)
def test_scores_of_a_detector_that_knows_nothing_are_named(make_truth, low, high, words):
    sizes, _, _ = scene()
    draw = np.random.default_rng(0)
    predictions = [
        {"image_id": n, "category_id": 1 + m % 3, "bbox": [*draw.uniform(0, 200, 2), *draw.uniform(16, 90, 2)],
         "score": draw.uniform(low, high)}
        for n in range(len(sizes)) for m in range(30)
    ]  # fmt: skip
    ap, cause = cause_and_ap(make_truth, predictions)
    assert ap < 0.01
    assert re.search(words, cause) and "weights were not loaded" in cause


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_said_of_a_good_detector(make_truth, seed):
    ap, cause = cause_and_ap(make_truth, as_results(scene(seed)[2]), seed)
    assert ap > 0.3 and cause is None


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_said_of_a_detector_that_is_merely_bad(make_truth, seed):
    sizes, _, detections = scene(seed)
    draw = np.random.default_rng(seed + 100)
    elsewhere = draw.permutation(len(detections))
    detections = [(*detections[n][:2], detections[m][2], detections[n][3]) for n, m in enumerate(elsewhere)]
    ap, cause = cause_and_ap(make_truth, as_results(detections), seed)
    assert ap < 0.05 and cause is None


def test_a_few_objects_do_not_make_a_cause(make_truth):
    truth = make_truth([(0, 1, [0, 0, 50, 50], False)])
    for box in ([0, 0, 10, 10], [300, 200, 20, 90], [25, 25, 50, 50 / 3], [5, 7, 0, 0], [600, 400, -20, 30]):
        predictions = [{"image_id": 0, "category_id": 1, "bbox": box, "score": 0.9}]
        assert likely_cause(truth, predictions) is None


def test_images_without_sizes_are_no_obstacle(make_truth):
    sizes, objects, detections = scene()
    truth = make_truth(objects, sizes=sizes)
    for image in truth.coco()["images"]:
        del image["width"], image["height"]
    assert "wrong scale" in likely_cause(truth, as_results(detections, scaled(2, 3)))
    assert likely_cause(truth, as_results(detections)) is None


def test_no_objects_are_no_mistake(make_truth):
    assert likely_cause(make_truth([(0, 1, [0, 0, 5, 5], True)]), []) is None
    assert likely_cause(make_truth([]), [{"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]) is None
