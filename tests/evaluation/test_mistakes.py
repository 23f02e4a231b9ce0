"""One detection of each kind; boxes are (x, y, width, height), IoUs arithmetic."""

import numpy as np
import pytest

from detlite.evaluation.evaluator import Detections, Objects
from detlite.evaluation.mistakes import KINDS, kinds_of_mistakes


def objects(*rows, ignored=()):
    """Objects of (image, label, box)."""
    images, labels, boxes = zip(*rows, strict=True) if rows else ((), (), ())
    flags = np.zeros(len(rows), bool)
    flags[list(ignored)] = True
    return Objects(np.array(images, int), np.array(labels, int), np.array(boxes, float).reshape(-1, 4), flags)


def detections(*rows):
    """Detections of (image, label, box), best first."""
    images, labels, boxes = zip(*rows, strict=True) if rows else ((), (), ())
    scores = np.linspace(0.9, 0.5, len(rows))
    return Detections(np.array(images, int), np.array(labels, int), np.array(boxes, float).reshape(-1, 4), scores)


BOX = [10, 10, 20, 10]
HALF = [10, 10, 10, 10]  # IoU 0.5 with BOX
LESS = [10, 10, 9, 10]  # 0.45
LITTLE = [10, 10, 2, 10]  # 0.1
HARDLY = [10, 10, 1.9, 10]  # 0.095


@pytest.mark.parametrize(
    ("label", "box", "kind"),
    [
        (1, BOX, "right"),
        (1, HALF, "right"),
        (1, LESS, "localization"),
        (1, LITTLE, "localization"),
        (1, HARDLY, "background"),
        (2, HALF, "class"),
        (2, LESS, "both"),
        (2, LITTLE, "both"),
        (2, HARDLY, "background"),
        (1, [100, 100, 5, 5], "background"),
    ],
)
def test_the_kind_of_a_single_detection(label, box, kind):
    kinds, nearest, missed = kinds_of_mistakes(objects((0, 1, BOX)), detections((0, label, box)))
    assert kinds == [kind]
    assert nearest.tolist() == [-1 if kind == "background" else 0]
    assert missed.tolist() == [kind in ("both", "background")]


def test_the_second_to_find_an_object_is_a_duplicate():
    kinds, nearest, missed = kinds_of_mistakes(objects((0, 1, BOX)), detections((0, 1, BOX), (0, 1, HALF)))
    assert kinds == ["right", "duplicate"] and nearest.tolist() == [0, 0] and not missed.any()


def test_a_poor_box_of_the_right_class_comes_before_a_good_one_of_another():
    truth = objects((0, 1, [10, 10, 10, 10]), (0, 2, [15, 10, 10, 10]))
    kinds, nearest, missed = kinds_of_mistakes(truth, detections((0, 1, [15, 10, 10, 10])))  # IoU 1/3 and 1
    assert kinds == ["localization"] and nearest.tolist() == [0] and missed.tolist() == [False, True]


def test_other_images_and_ignored_regions_do_not_count():
    truth = objects((0, 1, BOX), (1, 1, BOX), ignored=[1])
    kinds, nearest, missed = kinds_of_mistakes(truth, detections((2, 1, BOX), (1, 1, BOX), (1, 2, BOX)))
    assert kinds == ["background", "ignored", "background"]
    assert nearest.tolist() == [-1, -1, -1] and missed.tolist() == [True, False]


def test_nothing_at_all():
    kinds, nearest, missed = kinds_of_mistakes(objects(), detections())
    assert kinds == [] and nearest.shape == missed.shape == (0,)
    kinds, _, missed = kinds_of_mistakes(objects((0, 1, BOX)), detections())
    assert kinds == [] and missed.tolist() == [True]
    kinds, _, missed = kinds_of_mistakes(objects(), detections((0, 1, BOX)))
    assert kinds == ["background"] and set(kinds) < set(KINDS)
