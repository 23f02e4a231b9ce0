"""Matching against the same rules as plain loops."""

import numpy as np
import pytest

from detlite.evaluation.evaluator import Detections, Objects
from detlite.evaluation.matching import (
    IGNORED,
    UNMATCHED,
    match_detections,
    match_greedily,
    overlapping_pairs,
    pairs_of_equal_keys,
)


def iou(a, b):
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def random_sides(seed, objects=30, detections=80):
    draw = np.random.default_rng(seed)

    def common(count):
        boxes = np.concatenate([draw.uniform(0, 100, (count, 2)), draw.uniform(40, 90, (count, 2))], axis=1)
        return draw.integers(0, 4, count), draw.integers(1, 4, count), boxes

    truth = Objects(*common(objects), draw.random(objects) < 0.2)
    return truth, Detections(*common(detections), draw.random(detections).round(1))


@pytest.mark.parametrize("seed", range(10))
def test_greedy_matching_takes_what_a_loop_over_the_pairs_takes(seed):
    rows, columns = np.random.default_rng(seed).integers(0, 12, (2, 60))
    free_rows, free_columns, expected = set(rows), set(columns), []
    for n, (row, column) in enumerate(zip(rows, columns, strict=True)):
        if row in free_rows and column in free_columns:
            free_rows.remove(row)
            free_columns.remove(column)
            expected.append(n)
    assert sorted(match_greedily(rows, columns)) == expected


@pytest.mark.parametrize("same_class", [True, False])
def test_pairs_are_those_of_one_image_that_overlap(same_class):
    truth, found = random_sides(0)
    rows, columns, intersections, unions = overlapping_pairs(truth, found, same_class)
    expected = {
        (r, c): iou(found.boxes[r], truth.boxes[c])
        for r in range(80)
        for c in range(30)
        if found.images[r] == truth.images[c]
        and (not same_class or found.labels[r] == truth.labels[c])
        and iou(found.boxes[r], truth.boxes[c]) > 0
    }
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    assert dict(zip(pairs, intersections / unions, strict=True)) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(6))
def test_detections_best_first_take_the_free_object_that_they_overlap_most(seed):
    truth, found = random_sides(seed)
    expected, taken = np.full(80, UNMATCHED), set()
    for r in np.argsort(-found.scores, kind="stable"):
        same = [c for c in range(30) if truth.images[c] == found.images[r] and truth.labels[c] == found.labels[r]]
        free = [c for c in same if not truth.ignored[c] and c not in taken]
        best = max(free, key=lambda c: iou(found.boxes[r], truth.boxes[c]), default=None)
        if best is not None and iou(found.boxes[r], truth.boxes[best]) >= 0.3:
            expected[r] = best
            taken.add(best)
            continue
        for c in same:
            x = iou(found.boxes[r], truth.boxes[c])
            areas = found.boxes[r, 2:].prod() + truth.boxes[c, 2:].prod()
            if truth.ignored[c] and areas * x / (1 + x) / found.boxes[r, 2:].prod() >= 0.3:
                expected[r] = IGNORED
    assert match_detections(truth, found, 0.3).tolist() == expected.tolist()
    assert (expected == IGNORED).any() and (expected >= 0).any() and (expected == UNMATCHED).any()


@pytest.mark.parametrize(("objects", "detections"), [(0, 0), (0, 3), (3, 0), (1, 1)])
def test_either_side_may_be_empty(objects, detections):
    truth, found = random_sides(0, objects, detections)
    assert len(match_detections(truth, found, 0.5)) == detections
    assert len(match_detections(truth, found, 0.5, same_class=False)) == detections


def test_boxes_without_area_or_with_negative_sides_match_nothing():
    truth = Objects(np.zeros(1, int), np.ones(1, int), np.array([[0.0, 0, 10, 10]]), np.array([False]))
    boxes = np.array([[0.0, 0, 0, 10], [10, 10, -10, -10], [5, 5, 0, 0]])
    found = Detections(np.zeros(3, int), np.ones(3, int), boxes, np.ones(3))
    assert match_detections(truth, found, 0.01).tolist() == [UNMATCHED] * 3


def test_equal_keys_pair_up_whatever_their_values():
    rows, columns = pairs_of_equal_keys(np.array([10**12, 3]), np.array([3, 3, 10**12, 0]))
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 2), (1, 0), (1, 1)]
