"""The AP without each kind of error, compared with arithmetic."""

from types import SimpleNamespace

import numpy as np
import pytest

from detlite.evaluation.evaluator import to_arrays
from detlite.evaluation.matching import match_detections
from detlite.inspection.report.error_costs import ERRORS, NO_ERROR, find_errors, gains, mean_ap

A, B, C = [0, 0, 100, 100], [300, 0, 100, 100], [0, 300, 100, 100]


def shifted(box, pixels):
    return [box[0] + pixels, *box[1:]]


def analyze(truth, rows):
    """Arrays, matches and errors of detections (image, label, bbox, score), which must be best first."""
    results = [{"image_id": i, "category_id": k, "bbox": box, "score": score} for i, k, box, score in rows]
    objects, detections = to_arrays(truth, results)
    matches = match_detections(objects, detections, 0.5)
    return objects, detections, matches, find_errors(objects, detections)


def named(errors):
    return [None if kind == NO_ERROR else ERRORS[kind] for kind in errors.kinds]


def test_what_lies_in_a_crowd_is_no_error_and_a_crowd_is_not_missed(make_truth):
    objects, _, _, errors = analyze(make_truth([(0, 1, A, True), (0, 2, A, False)]), [(0, 1, [10, 10, 50, 50], 0.9)])
    assert named(errors) == [None]
    assert errors.found_at.tolist() == [-np.inf, -np.inf]
    assert objects.ignored.tolist() == [True, False]


def test_an_object_is_noticed_from_the_best_score_of_what_found_or_nearly_found_it(make_truth):
    truth = make_truth([(0, 1, A, False), (0, 1, B, False), (1, 2, A, False), (1, 2, B, False), (2, 1, A, False)])
    rows = [
        (0, 1, shifted(A, 50), 0.9),  # the first: badly placed ...
        (0, 1, A, 0.6),  # and found
        (0, 2, B, 0.8),  # the second: the wrong class
        (1, 2, A, 0.7),  # the third: found
        (1, 1, shifted(B, 50), 0.5),  # the fourth: both wrong, which is not near
    ]
    *_, errors = analyze(truth, rows)
    assert errors.found_at.tolist() == [0.9, 0.8, 0.7, -np.inf, -np.inf]


def test_nothing_detected_and_nothing_there():
    empty = {"images": [{"id": 0}], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    truth = SimpleNamespace(classes=["cat"], category_ids=[1], coco=lambda: empty)
    objects, detections, matches, errors = analyze(truth, [])
    assert len(errors.kinds) == len(errors.found_at) == 0
    assert gains(objects, detections, matches, errors, 1) == dict.fromkeys((*ERRORS, "missed"))
    *_, errors = analyze(truth, [(0, 1, A, 0.5)])
    assert named(errors) == ["background"]


def test_the_gain_is_the_ap_without_a_kind_less_the_ap_with_it(make_truth):
    truth = make_truth([(0, 1, A, False), (1, 1, A, False)], classes=("cat",))
    rows = [(0, 1, C, 0.9), (0, 1, A, 0.8), (1, 1, shifted(A, 50), 0.7)]  # background, right, localization
    analyzed = analyze(truth, rows)
    # Recall 1/2 at precision 1/2: 51 of 101 recalls. Without the background at precision 1; with the third right,
    # recall 1 at precision 2/3. Every object has a detection near it.
    before = 51 * 0.5 / 101
    assert mean_ap(*analyzed[:3], 1) == pytest.approx(before)
    assert gains(*analyzed, 1) == pytest.approx(
        {
            "localization": 2 / 3 - before,
            "class": 0,
            "both": 0,
            "duplicate": 0,
            "background": 51 * 1 / 101 - before,
            "missed": 0,
        }
    )


def test_a_missed_object_is_mended_by_not_counting_it(make_truth):
    truth = make_truth([(0, 1, A, False), (1, 1, A, False)], classes=("cat",))
    assert gains(*analyze(truth, [(0, 1, A, 0.9)]), 1)["missed"] == pytest.approx(1 - 51 / 101)


def test_of_several_near_an_object_the_best_is_given_it_and_the_others_are_taken_away(make_truth):
    truth = make_truth([(0, 1, A, False)], classes=("cat", "dog"))
    rows = [(0, 2, A, 0.9), (0, 1, shifted(A, 50), 0.8), (0, 2, A, 0.7)]
    found = gains(*analyze(truth, rows), 2)
    # The best detection says dog: as a cat it is right, and later ones do not matter. Without the badly placed cat,
    # nothing is right.
    assert found["class"] == 1 and found["localization"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_every_wrong_detection_has_one_kind(random_results, seed):
    truth, results = random_results(seed)
    objects, detections = to_arrays(truth, results)
    matches = match_detections(objects, detections, 0.5)
    errors = find_errors(objects, detections)
    assert ((errors.kinds != NO_ERROR) == (matches == -1)).all()
    assert set(errors.kinds.tolist()) == {NO_ERROR, *range(len(ERRORS))}
    assert all(gain >= 0 for gain in gains(objects, detections, matches, errors, 4).values())
