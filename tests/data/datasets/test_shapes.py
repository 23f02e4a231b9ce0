import numpy as np
import pytest
import torch

from detlite.data import ShapesDataset
from detlite.errors import UserError
from detlite.registry import DATASETS


def test_images_depend_on_seed_and_index_alone():
    first, again, other = ShapesDataset(seed=3), ShapesDataset(seed=3, num_images=7), ShapesDataset(seed=4)
    again[0]
    for index in (2, 0, 5_000_000):
        (image, target), (same, same_target) = first[index], again[index]
        assert torch.equal(image, same)
        assert torch.equal(target["boxes"], same_target["boxes"]) and torch.equal(
            target["labels"], same_target["labels"]
        )
        assert not torch.equal(image, other[index][0])


def test_there_are_num_images_images_to_go_through_and_one_for_any_index():
    dataset = ShapesDataset(num_images=4, image_size=64)
    assert len(dataset) == len(list(dataset)) == 4
    assert dataset.sizes.tolist() == [[64, 64]] * 4
    assert dataset[10][1]["image_id"] == 10
    with pytest.raises(IndexError):
        dataset[-1]


@pytest.mark.parametrize("image_size, max_objects", [(128, 5), (32, 1), (96, 40)])
def test_records_keep_to_the_contract(image_size, max_objects):
    dataset = ShapesDataset(num_images=30, image_size=image_size, max_objects=max_objects)
    counts, labels = set(), set()
    for image, target in dataset:
        boxes = target["boxes"]
        assert image.shape == (3, image_size, image_size) and image.dtype == torch.uint8
        assert boxes.dtype == torch.float32 and boxes.canvas_size == (image_size, image_size)
        assert (boxes >= 0).all() and (boxes <= image_size).all() and (boxes[:, 2:] > boxes[:, :2]).all()
        assert target["labels"].dtype == torch.int64 and len(target["labels"]) == len(boxes)
        counts.add(len(boxes))
        labels |= set(target["labels"].tolist())
    assert labels == {1, 2, 3}
    assert min(counts) >= 1 and max(counts) <= max_objects
    assert max_objects == 1 or max(counts) > 1


def single_objects(number):
    """Images with one object each: pixels, mask of the object by its color, box, label."""
    found = 0
    for image, target in ShapesDataset(num_images=number, max_objects=1):
        image, (box,) = image.numpy().astype(int), target["boxes"].tolist()
        border = np.concatenate([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], axis=1)
        ground = np.median(border, axis=1)
        center = [int((box[1] + 2 * box[3]) / 3), int((box[0] + box[2]) / 2)]
        inside = np.median(image[:, center[0] - 2 : center[0] + 3, center[1] - 2 : center[1] + 3], axis=(1, 2))
        to_object, to_ground = (abs(image - color[:, None, None]).sum(0) for color in (inside, ground))
        yield image, to_object < to_ground, [int(x) for x in box], int(target["labels"][0])
        found += 1
    assert found == number


def test_boxes_are_tight_around_the_drawn_pixels_and_end_one_past_the_last():
    # At noise this strong some pixels look like the other side; rows and columns are judged by several of them.
    for _, mask, (x1, y1, x2, y2), label in single_objects(60):
        outside = mask.copy()
        outside[y1:y2, x1:x2] = False
        assert outside.mean() < 0.05
        if label == 2:  # a square fills its box: each row and column next to the edge is full inside, empty outside
            assert min(mask[y1, x1:x2].mean(), mask[y2 - 1, x1:x2].mean()) > 0.7
            assert min(mask[y1:y2, x1].mean(), mask[y1:y2, x2 - 1].mean()) > 0.7
            for row in {y1 - 1, y2} & set(range(128)):
                assert mask[row, x1:x2].mean() < 0.3
            for column in {x1 - 1, x2} & set(range(128)):
                assert mask[y1:y2, column].mean() < 0.3


def test_boxes_equal_those_of_the_noiseless_drawing(monkeypatch):
    dataset = ShapesDataset(max_objects=8)
    for index in range(40):
        owner, _, labels, _ = dataset._draw(index)
        for number, box in enumerate(dataset[index][1]["boxes"].int().tolist(), start=1):
            rows, columns = np.nonzero(owner == number)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert owner.max() == len(labels)


@pytest.mark.parametrize("label, filled", [(1, np.pi / 4), (2, 1), (3, 1 / 2)])
def test_shapes_fill_their_share_of_the_box(label, filled):
    shares = [
        mask[y1:y2, x1:x2].mean()
        for _, mask, (x1, y1, x2, y2), its_label in single_objects(60)
        if its_label == label and x2 - x1 > 30
    ]
    assert np.median(shares) == pytest.approx(filled, abs=0.05)


def test_objects_hide_little_of_each_other():
    for _, target in ShapesDataset(num_images=40, max_objects=20):
        boxes = target["boxes"].as_subclass(torch.Tensor)
        low = torch.maximum(boxes[:, None, :2], boxes[:, :2])
        high = torch.minimum(boxes[:, None, 2:], boxes[:, 2:])
        shared = (high - low).clamp(min=0).prod(2).fill_diagonal_(0)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        assert (shared <= 0.35 * torch.minimum(areas[:, None], areas)).all()  # 0.2 before rounding and hiding


def test_the_ground_truth_is_that_of_the_records():
    dataset = ShapesDataset(num_images=5, seed=8)
    truth = dataset.coco()
    assert [row["id"] for row in truth["annotations"]] == list(range(1, len(truth["annotations"]) + 1))
    assert [row["id"] for row in truth["images"]] == [0, 1, 2, 3, 4]
    assert [row["name"] for row in truth["categories"]] == dataset.classes
    for _, target in dataset:
        rows = [row for row in truth["annotations"] if row["image_id"] == target["image_id"]]
        assert [row["category_id"] for row in rows] == target["labels"].tolist()
        corners = [[x, y, x + width, y + height] for x, y, width, height in (row["bbox"] for row in rows)]
        assert corners == target["boxes"].tolist()
        assert all(row["area"] == row["bbox"][2] * row["bbox"][3] and row["iscrowd"] == 0 for row in rows)


def test_impossible_values_are_refused():
    with pytest.raises(UserError, match="32 <= image_size"):
        DATASETS.build({"NAME": "ShapesDataset", "IMAGE_SIZE": 16})
