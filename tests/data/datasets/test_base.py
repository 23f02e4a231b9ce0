"""Annotations of files in memory, and messages about bad boxes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from detlite.data import CocoDataset, Faults, build_transforms, training_loader
from detlite.data.datasets.base import Annotations, check_boxes
from detlite.data.datasets.split import select_split


@pytest.fixture
def dataset(tmp_path):
    """Nine images with two objects each."""
    images, annotations = [], []
    for index in range(9):
        Image.new("RGB", (40, 32)).save(tmp_path / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "width": 40, "height": 32})
        annotations += [{"image_id": index, "category_id": 1, "bbox": [x, 2, 5, 6]} for x in (1, 20)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "x.json").write_text(json.dumps(content))
    return CocoDataset(annotations=str(tmp_path / "x.json"), images=str(tmp_path))


def test_what_grows_with_the_data_set_are_tensors(dataset):
    tensors = [value for value in vars(dataset).values() if torch.is_tensor(value)]
    assert sum(len(tensor) >= 9 for tensor in tensors) >= 7
    others = [value for value in vars(dataset).values() if isinstance(value, (list, tuple, dict, set, np.ndarray))]
    assert all(len(value) < 9 for value in others)
    assert np.shares_memory(dataset.sizes, dataset.sizes)


def test_spawned_workers_are_handed_the_annotations_in_shared_memory(dataset):
    held = [value for value in vars(dataset).values() if torch.is_tensor(value)]
    assert not any(tensor.is_shared() for tensor in held)
    loader = training_loader(
        dataset, build_transforms([]), batch_size=2, seed=0, num_workers=1, group_by_aspect_ratio=False
    )
    loader.multiprocessing_context = "spawn"
    _, targets = next(iter(loader))
    assert all(tensor.is_shared() for tensor in held)
    assert all(target["boxes"].tolist() == [[1, 2, 6, 8], [20, 2, 25, 8]] for target in targets)


def test_each_box_is_of_one_kind():
    boxes = {
        "boxes that are not finite": [[np.nan, 1, 2, 3], [1, 1, np.inf, 3], [1e308, 1, 1e308, 3]],
        "inverted boxes": [[9, 9, -2, 3], [9, 9, 2, -3]],
        "boxes without area": [[9, 9, 0, 3], [9, 9, 3, 0]],
        "boxes outside their image": [[50, 9, 3, 3], [-3, 9, 3, 3], [9, 40, 3, 3], [9, -4, 3, 3], [40, 9, 1e-9, 3]],
        "boxes that stick out": [[-1, 9, 4, 4], [9, 9, 42, 3], [0, 39, 50, 2]],
        "boxes of one pixel": [[9, 9, 1, 4], [9, 9, 4, 0.5]],
        "good": [[0, 0, 50, 40], [-0.5, 9, 9, 9], [9, 9, 1.5, 1.5]],
    }
    boxes["repeated objects"] = boxes["good"][2:] * 1
    kinds = [kind for kind, rows in boxes.items() for _ in rows]
    values = np.array(sum(boxes.values(), []), np.float64)
    faults = Faults()
    count = len(kinds)
    annotations = Annotations(
        source="",
        folder="",
        file_names=["a.png"],
        sizes=np.array([[40, 50]]),
        owners=np.zeros(count, np.int64),
        boxes=values,
        names=["thing"],
        labels=np.ones(count, np.int64),
        crowd=np.zeros(count, bool),
        describe=str,
    )
    good = check_boxes(annotations, "error", "keep", faults)
    found = {kind: [int(text.split(",")[0]) for text in fault.examples] for kind, fault in faults.items()}
    expected = {kind: [i for i in range(count) if kinds[i] == kind] for kind in boxes if kind != "good"}
    assert found == expected
    assert good.tolist() == [
        kind in ("good", "boxes of one pixel", "boxes that stick out", "repeated objects") for kind in kinds
    ]


def test_duplicates_drop_keeps_the_first_of_equal_boxes_of_a_class_in_an_image(tmp_path, caplog):
    boxes = [
        (1, 1, [1, 2, 5, 6]),
        (1, 2, [1, 2, 5, 6]),
        (1, 1, [1, 2, 5, 6]),
        (2, 1, [1, 2, 5, 6]),
        (2, 1, [0, 0, 0, 0]),
    ]
    names = "image_id", "category_id", "bbox"
    content = {
        "images": [{"id": id, "file_name": f"{id}.png", "width": 40, "height": 32} for id in (1, 2)],
        "annotations": [dict(zip(names, row, strict=True), id=id) for id, row in enumerate(boxes, 1)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "x.json").write_text(json.dumps(content))
    options = {"annotations": "x.json", "root": str(tmp_path), "images": ".", "bad_boxes": "skip"}
    caplog.set_level("INFO")
    found = CocoDataset(**options, duplicates="drop").coco()["annotations"]
    assert [(row["image_id"], row["category_id"]) for row in found] == [(1, 1), (1, 2), (2, 1)]
    assert "2 images, 3 objects; left out: 1 duplicates, 1 bad boxes" in caplog.text
    assert len(CocoDataset(**options).coco()["annotations"]) == 4


@pytest.mark.parametrize("count", [3, 10, 23])
def test_folds_divide_the_images(count):
    names = [f"{index}.jpg" for index in range(count)]
    tests = [select_split(names, names, "test", 4, fold) for fold in range(4)]
    assert sorted(sum(tests, [])) == sorted(names) and max(map(len, tests)) - min(map(len, tests)) <= 1
    assert [sorted(test + select_split(names, names, "train", 4, fold)) for fold, test in enumerate(tests)] == [
        sorted(names)
    ] * 4
