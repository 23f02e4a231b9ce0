"""Tiles: which objects they keep, cut, ignore or leave out, and that nothing else changes."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from detlite.config import load_config
from detlite.data import Faults, ShapesDataset, build_dataset, build_train_datasets
from detlite.data.datasets.tiled import TiledDataset
from detlite.errors import UserError
from detlite.testing import check_dataset

# An image of 250 px in tiles of 100 px: from 0, 75 and 150, which overlap by 25 px.
BOXES = [[10, 20, 50, 60], [80, 0, 120, 40], [160, 50, 250, 100]]


class Wide:
    """One image whose pixels are their x, with three objects and a region to ignore."""

    classes, category_ids, sizes = ["a", "b"], [4, 7], np.array([[100, 250]])

    def __len__(self):
        return 1

    def __getitem__(self, index):
        def boxes(rows):
            return tv_tensors.BoundingBoxes(torch.tensor(rows).float(), format="XYXY", canvas_size=(100, 250))

        image = tv_tensors.Image(torch.arange(250, dtype=torch.uint8).expand(3, 100, 250))
        labels = torch.tensor([1, 2, 1])
        return image, {"boxes": boxes(BOXES), "labels": labels, "image_id": 9, "ignored": boxes([[0, 90, 85, 100]])}

    def coco(self):
        rows = []
        for (x1, y1, x2, y2), category in zip([*BOXES, [0, 90, 85, 100]], [4, 7, 4, 4], strict=True):
            row = {"image_id": 9, "bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": category}
            rows.append({**row, "iscrowd": int(y1 == 90), "area": 1, "id": len(rows) + 1})
        images = [{"id": 9, "file_name": "wide.png", "height": 100, "width": 250}]
        return {"images": images, "annotations": rows, "categories": [{"id": 4, "name": "a"}, {"id": 7, "name": "b"}]}


# Of the second object, 20, 40 and 0 of 40 px are visible; of the third 0, 15 and 90 of 90.
EXPECTED = [
    ([[10, 20, 50, 60], [80, 0, 100, 40]], [1, 2], [[0, 90, 85, 100]]),
    ([[5, 0, 45, 40]], [2], [[85, 50, 100, 100], [0, 90, 10, 100]]),
    ([[10, 50, 100, 100]], [1], []),
]


def test_an_object_is_kept_cut_or_ignored_by_its_visible_share():
    dataset = TiledDataset(Wide(), size=100, overlap=25)
    assert dataset.sizes.tolist() == [[100, 100]] * 3
    for index, (boxes, labels, ignored) in enumerate(EXPECTED):
        image, target = dataset[index]
        assert image[0, 0].tolist() == list(range(75 * index, 75 * index + 100))
        assert target["boxes"].tolist() == boxes and target["labels"].tolist() == labels
        assert target["image_id"] == index
        assert target["ignored"].tolist() == ignored if ignored else "ignored" not in target


def test_the_ground_truth_has_the_boxes_of_the_records_and_ignored_regions_as_crowds():
    dataset = TiledDataset(Wide(), size=100, overlap=25)
    check_dataset(dataset)
    found = [[], [], []]
    for row in dataset.coco()["annotations"]:
        x1, y1, width, height = row["bbox"]
        assert row["area"] == width * height
        found[row["image_id"]].append([row["iscrowd"], x1, y1, x1 + width, y1 + height])
    for rows, (boxes, _, ignored) in zip(found, EXPECTED, strict=True):
        assert sorted(rows) == sorted([[0, *box] for box in boxes] + [[1, *box] for box in ignored])


def test_a_tile_needs_the_chosen_share_of_an_object():
    for share, count in ((0.5, 2), (0.51, 1)):
        dataset = TiledDataset(Wide(), size=100, overlap=25, min_visible=share)
        assert len(dataset[0][1]["boxes"]) == count


def test_tiles_without_objects_are_left_out_and_counted(caplog):
    caplog.set_level(logging.INFO)
    dataset = TiledDataset(Wide(), size=40, overlap=0, keep_empty=False)
    assert [len(dataset[index][1]["boxes"]) > 0 for index in range(len(dataset))] == [True] * len(dataset)
    whole = TiledDataset(Wide(), size=40, overlap=0)
    left_out = sum(not len(whole[index][1]["boxes"]) for index in range(len(whole)))
    assert len(whole) - len(dataset) == left_out > 0
    assert f"1 images cut into 21 tiles; left out: {left_out} tiles without objects" in caplog.text


def test_an_image_that_fits_in_a_tile_is_the_record_of_its_data_set():
    shapes = ShapesDataset(num_images=3)
    dataset = TiledDataset(shapes, size=128, overlap=0)
    for (image, target), (expected, truth) in zip((dataset[i] for i in range(3)), shapes, strict=True):
        assert torch.equal(image, expected) and torch.equal(target["boxes"], truth["boxes"])
        assert torch.equal(target["labels"], truth["labels"]) and "ignored" not in target


def test_a_config_nests_the_data_set_and_its_faults_are_reported(tmp_path):
    tiled = "{NAME: TiledDataset, SIZE: 64, OVERLAP: 32, DATASET: {NAME: ShapesDataset, NUM_IMAGES: 2}}"
    dataset = build_train_datasets(load_config(opts=["DATASETS.TRAIN", f"[{tiled}]"]).DATASETS.TRAIN)
    assert len(dataset) == 2 * 9
    root = tmp_path / "images"
    root.mkdir()
    node = {"NAME": "YoloDataset", "IMAGES": [str(root)], "CLASSES": ["a"]}
    (root / "a.txt").write_text("0 0.5 0.5 9 0\n")
    Image.new("RGB", (100, 60)).save(root / "a.png")
    faults = Faults()
    build_dataset({"NAME": "TiledDataset", "DATASET": node, "SIZE": 60, "OVERLAP": 0}, faults)
    assert list(faults) == ["boxes without area"]


@pytest.mark.parametrize("keys", [{"overlap": 512}, {"overlap": -1}, {"min_visible": 0.0}, {"min_visible": 1.5}])
def test_tiles_overlap_by_less_than_their_size(keys):
    with pytest.raises(ValueError, match="need 0 <= overlap < size and 0 < min_visible <= 1"):
        TiledDataset(Wide(), **keys)


def test_a_config_without_the_data_set_is_refused():
    with pytest.raises(UserError, match="DATASETS.TRAIN.0.DATASET"):
        load_config(opts=["DATASETS.TRAIN", "[{NAME: TiledDataset}]"])
