import json

import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from detlite.data import ShapesDataset, build_train_datasets
from detlite.errors import UserError

SHAPES = {"NAME": "ShapesDataset", "IMAGE_SIZE": 32, "NUM_IMAGES": 7}


def test_several_data_sets_are_one_after_the_other():
    first, second = {**SHAPES, "SEED": 1}, {**SHAPES, "SEED": 2, "IMAGE_SIZE": 40, "NUM_IMAGES": 3}
    dataset = build_train_datasets([first, second])
    assert len(dataset) == 10
    assert dataset.sizes.tolist() == [[32, 32]] * 7 + [[40, 40]] * 3
    assert dataset.classes == ["circle", "square", "triangle"]
    assert [dataset[index][1]["image_id"] for index in range(10)] == list(range(10))
    assert torch.equal(dataset[8][0], ShapesDataset(image_size=40, seed=2)[1][0])
    assert isinstance(dataset[8][0], tv_tensors.Image)


def test_one_data_set_keeps_its_image_ids():
    assert isinstance(build_train_datasets([SHAPES]), ShapesDataset)


def coco_node(folder, names):
    Image.new("RGB", (6, 4)).save(folder / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 6}],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
    }
    path = folder / f"{'-'.join(names)}.json"
    path.write_text(json.dumps(content))
    return {"NAME": "CocoDataset", "ANNOTATIONS": str(path), "IMAGES": str(folder)}


@pytest.mark.parametrize(
    "names, message",
    [
        (
            ["circle", "cube", "triangle"],
            r"DATASETS.TRAIN.1 .*DATASETS.TRAIN.0: it lacks \['square'\] and adds \['cube'\]",
        ),
        (["square", "circle", "triangle"], "has them in another order"),
    ],
)
def test_data_sets_of_different_classes_are_refused(tmp_path, names, message):
    with pytest.raises(UserError, match=message):
        build_train_datasets([SHAPES, coco_node(tmp_path, names)])


def test_nothing_to_train_on_is_refused(tmp_path):
    node = {**coco_node(tmp_path, ["circle"]), "KEEP_EMPTY": False}
    for nodes in ([], [node]):
        with pytest.raises(UserError, match="DATASETS.TRAIN holds no images"):
            build_train_datasets(nodes)
    with pytest.raises(UserError, match="DATASETS.TRAIN.1 holds no images"):
        build_train_datasets([{**node, "KEEP_EMPTY": True}, node])
