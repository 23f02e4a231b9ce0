import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from detlite.data import ResizeShortSide, build_transforms
from detlite.data.transforms import Detectron2Resize, RandomHorizontalFlip
from detlite.errors import UserError


def record(height, width, boxes):
    image = torch.arange(3 * height * width).reshape(3, height, width) % 251
    boxes = tv_tensors.BoundingBoxes(torch.tensor(boxes).reshape(-1, 4), format="XYXY", canvas_size=(height, width))
    return tv_tensors.Image(image.to(torch.uint8)), {"boxes": boxes, "labels": torch.ones(len(boxes)), "image_id": 3}


@pytest.mark.parametrize(
    "size, new_size",
    [
        ((375, 500), (600, 800)),  # by 1.6
        ((500, 375), (800, 600)),
        ((300, 600), (500, 1000)),  # by 1000 / 600, not 2: the long side decides
        ((49, 70), (600, 857)),  # 857.14; 49 * (600 / 49) is below 600 in floating point
        ((333, 500), (600, 901)),  # 900.9
        ((1, 5000), (1, 1000)),  # 0.2 would vanish
        ((600, 1000), (600, 1000)),
    ],
)
def test_the_new_size_is_rounded_and_boxes_move_with_it_exactly(size, new_size):
    (height, width), (new_height, new_width) = size, new_size
    box = [width / 4, height / 2, width, height * 0.75]
    image, target = ResizeShortSide(size=600, max_size=1000)(*record(height, width, [box, [0.0, 0.0, width, height]]))
    assert image.shape == (3, *new_size) and image.dtype == torch.uint8
    assert target["boxes"].canvas_size == new_size
    expected = [[new_width / 4, new_height / 2, new_width, new_height * 0.75], [0, 0, new_width, new_height]]
    torch.testing.assert_close(target["boxes"].as_subclass(torch.Tensor), torch.tensor(expected))
    assert target["image_id"] == 3 and target["labels"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "size, new_size",
    [
        ((30, 41), (40, 55)),  # 54.67
        ((64, 100), (40, 63)),  # 62.5: halves are rounded up
        ((100, 64), (63, 40)),
        ((30, 90), (27, 80)),  # 120 is too long: by 80 / 90, 26.67
    ],
)
def test_detectron2_s_resize_has_pillow_s_pixels(size, new_size):
    (height, width), (new_height, new_width) = size, new_size
    image, target = record(height, width, [[width / 4, 0.0, width, height]])
    resized, moved = Detectron2Resize(size=40, max_size=80)(image, target)
    pixels = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((new_width, new_height), Image.Resampling.BILINEAR)
    assert resized.shape == (3, *new_size) and np.array_equal(resized.permute(1, 2, 0), pixels)
    assert moved["boxes"].tolist() == [[new_width / 4, 0, new_width, new_height]]
    assert moved["boxes"].canvas_size == new_size and target["boxes"].canvas_size == size


def test_no_boxes_stay_no_boxes():
    image, target = ResizeShortSide(size=20)(*record(10, 30, []))
    assert target["boxes"].shape == (0, 4) and target["boxes"].canvas_size == (20, 60)


def test_of_several_sizes_each_is_drawn():
    resize = ResizeShortSide(size=[20, 40])
    shapes = {tuple(resize(*record(10, 15, []))[0].shape) for _ in range(40)}
    assert shapes == {(3, 20, 30), (3, 40, 60)}


def test_flipping_mirrors_image_and_boxes():
    image, target = record(20, 50, [[10.0, 3.0, 17.0, 9.0]])
    flipped, flipped_target = RandomHorizontalFlip(p=1.0)(image, target)
    assert torch.equal(flipped, image.flip(2))
    assert flipped_target["boxes"].tolist() == [[50 - 17, 3, 50 - 10, 9]]


def test_flipping_with_probability_0_changes_nothing():
    image, target = RandomHorizontalFlip(p=0.0)(*record(20, 50, [[10.0, 3.0, 17.0, 9.0]]))
    assert target["boxes"].tolist() == [[10, 3, 17, 9]]


def test_nodes_become_one_callable_in_their_order():
    nodes = [{"NAME": "ResizeShortSide", "SIZE": 40}, {"NAME": "RandomHorizontalFlip", "P": 1.0}]
    image, target = build_transforms(nodes)(*record(20, 50, [[10.0, 3.0, 17.0, 9.0]]))
    assert image.shape == (3, 40, 100)
    assert target["boxes"].tolist() == [[2 * (50 - 17), 6, 2 * (50 - 10), 18]]


def test_no_nodes_change_nothing():
    image, target = record(20, 50, [])
    assert build_transforms([])(image, target) == (image, target)


@pytest.mark.parametrize(
    "node, message",
    [
        ({"NAME": "ResizeShortSide", "SIZE": 600, "MAX_SIZE": 500}, "got 600 and 500"),
        ({"NAME": "ResizeShortSide", "SIZE": []}, "1 <= size"),
        ({"NAME": "RandomHorizontalFlip", "P": 1.5}, "RandomHorizontalFlip: p: expected a probability"),
        ({"NAME": "RandomHorizontalFlip", "Q": 1.5}, "no key Q"),
        ({"NAME": "Flip"}, "no TRANSFORM is called 'Flip'"),
    ],
)
def test_wrong_nodes_are_refused(node, message):
    with pytest.raises(UserError, match=message):
        build_transforms([node])


def test_no_transforms_leave_image_and_target_as_they_are():
    image, target = torch.zeros(3, 4, 6, dtype=torch.uint8), {"boxes": torch.tensor([[0.0, 0, 3, 2]]), "image_id": 7}
    same_image, same_target = build_transforms([])(image, target)
    assert same_image is image and same_target["boxes"] is target["boxes"] and same_target["image_id"] == 7
