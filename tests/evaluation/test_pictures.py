"""Pictures: what is drawn where, and what is not."""

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from detlite.evaluation import draw_detections, save_picture
from detlite.evaluation.panel import HEADING, color_of

NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
CLASSES = ["circle", "square"]


def one(box, label=1, score=0.9):
    return {"boxes": torch.tensor([box]), "labels": torch.tensor([label]), "scores": torch.tensor([score])}


def gray(height, width):
    return torch.full((3, height, width), 128, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("size", "enlarged"), [((400, 600), (400, 600)), ((320, 350), (320, 350)), ((64, 96), (320, 480))]
)
def test_two_panels_of_at_least_320_pixels_under_a_heading(size, enlarged):
    height, width = enlarged
    picture = draw_detections(gray(*size), NOTHING, NOTHING, CLASSES)
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, height + HEADING + 1, 2 * (width + 2))
    assert (picture[:, HEADING : HEADING + height, 1 : width + 1] == 128).all()  # nothing to draw, nothing drawn


@pytest.mark.parametrize("scale", [1, 4])
def test_boxes_lie_where_their_pixels_are(scale):
    side = 320 // scale
    box = [100.0 / scale, 200.0 / scale, 180.0 / scale, 240.0 / scale]
    picture = draw_detections(gray(side, side), one(box, label=1), one(box, label=2), CLASSES)
    for left, label in ((0, 1), (322, 2)):
        panel = picture[:, :, left : left + 322]
        color = torch.tensor(color_of(label), dtype=torch.uint8)[:, None, None]
        drawn = (panel == color).all(dim=0)
        drawn[: HEADING + 200] = False  # the name, above the box
        rows, columns = drawn.nonzero(as_tuple=True)
        assert (columns.min(), rows.min(), columns.max(), rows.max()) == (101, HEADING + 200, 181, HEADING + 240)


def test_a_detection_below_the_threshold_is_not_drawn():
    weak = one([100.0, 100.0, 200.0, 200.0], score=0.4)
    blank = draw_detections(gray(320, 320), NOTHING, NOTHING, CLASSES)
    assert torch.equal(draw_detections(gray(320, 320), NOTHING, weak, CLASSES), blank)
    assert not torch.equal(
        draw_detections(gray(320, 320), NOTHING, weak, CLASSES, 0.4)[:, HEADING:], blank[:, HEADING:]
    )


def test_the_best_detection_lies_on_top():
    both = {
        "boxes": torch.tensor([[100.0, 100.0, 200.0, 200.0], [100.0, 100.0, 200.0, 200.0]]),
        "labels": torch.tensor([2, 1]),
        "scores": torch.tensor([0.95, 0.6]),
    }
    picture = draw_detections(gray(320, 320), NOTHING, both, CLASSES)
    assert picture[:, HEADING + 200, 322 + 201].tolist() == list(color_of(2))


@pytest.mark.parametrize(
    "box", [[-50.0, -50.0, 900.0, 900.0], [10.0, 10.0, 10.0, 10.0], [30.0, 30.0, 10.0, 20.0], [310.0, 5.0, 319.0, 9.0]]
)
def test_odd_boxes_are_drawn_without_complaint(box):
    assert draw_detections(gray(320, 320), one(box), one(box), CLASSES).shape == (3, 320 + HEADING + 1, 644)


def test_every_class_has_a_color_of_its_own():
    assert len({color_of(label) for label in range(1, 91)}) == 90


def test_the_image_is_left_as_it_was():
    image = gray(320, 320)
    draw_detections(image, one([1.0, 2.0, 30.0, 40.0]), NOTHING, CLASSES)
    assert (image == 128).all()


def test_a_saved_picture_reads_back_the_same(tmp_path):
    picture = draw_detections(gray(320, 400), one([1.0, 2.0, 30.0, 40.0]), NOTHING, CLASSES)
    save_picture(picture, tmp_path / "0.png")
    with Image.open(tmp_path / "0.png") as saved:
        assert saved.format == "PNG" and torch.equal(pil_to_tensor(saved), picture)
