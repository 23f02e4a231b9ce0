import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torchvision import tv_tensors

from detlite.data import CocoDataset, read_image
from detlite.errors import UserError
from detlite.registry import DATASETS


def content():
    """Three images; categories 90 (cat) and 3 (dog) out of order; a crowd region; image 7 has no objects."""
    return {
        "images": [
            {"id": 12, "file_name": "a.png", "height": 40, "width": 60},
            {"id": 7, "file_name": "b.png", "height": 30, "width": 20},
            {"id": 5, "file_name": "c.png", "height": 10, "width": 50},
        ],
        "annotations": [
            {"id": 0, "image_id": 5, "category_id": 90, "bbox": [1.5, 2, 30, 4], "area": 77.5, "iscrowd": 0},
            {"id": 4, "image_id": 12, "category_id": 3, "bbox": [-2.25, 30, 10, 20]},
            {"id": 9, "image_id": 12, "category_id": 90, "bbox": [5, 6, 7, 9], "iscrowd": 1},
            {"id": 3, "image_id": 12, "category_id": 90, "bbox": [10, 20, 15, 17], "area": None},
        ],
        "categories": [{"id": 90, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


@pytest.fixture
def build(tmp_path):
    """Write a file's content and its images; build the data set."""

    def build(data, **keys):
        for row in content()["images"]:
            Image.new("RGB", (row["width"], row["height"])).save(tmp_path / row["file_name"])
        (tmp_path / "x.json").write_text(data if isinstance(data, str) else json.dumps(data))
        node = {"NAME": "CocoDataset", "ANNOTATIONS": str(tmp_path / "x.json"), "IMAGES": str(tmp_path), **keys}
        return DATASETS.build(node)

    return build


def test_sparse_category_ids_become_labels_in_the_order_of_the_ids(build):
    dataset = build(content())
    assert dataset.category_ids == [3, 90]
    assert dataset.classes == ["dog", "cat"]
    assert dataset[0][1]["labels"].tolist() == [1, 2]
    assert dataset[2][1]["labels"].tolist() == [2]


def test_paths_that_were_written_on_windows_are_found(build, tmp_path):
    data = content()
    for row in data["images"]:
        row["file_name"] = f"deep\\{row['file_name']}"
    (tmp_path / "deep").symlink_to(tmp_path)
    dataset = build(data)
    assert dataset[0][0].shape == (3, 40, 60) and dataset.coco()["images"][0]["file_name"] == "deep/a.png"
    Image.new("RGB", (60, 40)).save(tmp_path / "deep\\a.png")  # a name that Linux allows
    assert build(data).coco()["images"][0]["file_name"] == "deep\\a.png"


def test_records_have_the_files_order_ids_and_sizes(build):
    dataset = build(content())
    assert len(dataset) == 3
    assert dataset.sizes.tolist() == [[40, 60], [30, 20], [10, 50]]
    for (image, target), (height, width), image_id in zip(dataset, dataset.sizes, [12, 7, 5], strict=True):
        assert isinstance(image, tv_tensors.Image) and image.dtype == torch.uint8
        assert image.shape == (3, height, width)
        assert isinstance(target["boxes"], tv_tensors.BoundingBoxes) and target["boxes"].canvas_size == (height, width)
        assert target["boxes"].dtype == torch.float32 and target["labels"].dtype == torch.int64
        assert target["image_id"] == image_id


def test_boxes_become_corners_clipped_to_the_image_and_crowd_is_left_out(build):
    boxes = build(content())[0][1]["boxes"]
    assert boxes.tolist() == [[0, 30, -2.25 + 10, 40], [10, 20, 10 + 15, 20 + 17]]


def test_an_image_without_annotations_has_no_boxes(build):
    target = build(content())[1][1]
    assert target["boxes"].shape == (0, 4) and target["labels"].shape == (0,)


def test_images_without_objects_can_be_left_out(build, caplog):
    data = content()
    data["annotations"][0]["iscrowd"] = 1  # image 5 has a crowd region alone
    with caplog.at_level("INFO"):
        dataset = build(data, KEEP_EMPTY=False)
    assert len(dataset) == 1
    assert dataset.sizes.tolist() == [[40, 60]]
    assert dataset[0][1]["image_id"] == 12 and dataset[0][1]["labels"].tolist() == [1, 2]
    assert [row["image_id"] for row in dataset.coco()["annotations"]] == [12, 12, 12]
    assert "x.json: 1 images, 2 objects; left out: 2 crowd regions, 2 images without objects" in caplog.text


def test_the_last_of_several_images_without_objects_can_be_left_out(build):
    data = content()
    data["images"].reverse()
    del data["annotations"][1:]
    dataset = build(data, KEEP_EMPTY=False)
    assert [target["image_id"] for _, target in dataset] == [5]
    assert dataset[0][1]["boxes"].tolist() == [[1.5, 2, 31.5, 6]]


def test_ground_truth_has_the_files_boxes_crowd_and_all_that_pycocotools_asks_for(build):
    truth = build(content()).coco()
    assert truth["annotations"] == [
        {"id": 1, "image_id": 12, "category_id": 3, "bbox": [-2.25, 30, 10, 20], "area": 200, "iscrowd": 0},
        {"id": 2, "image_id": 12, "category_id": 90, "bbox": [5, 6, 7, 9], "area": 63, "iscrowd": 1},
        {"id": 3, "image_id": 12, "category_id": 90, "bbox": [10, 20, 15, 17], "area": 255, "iscrowd": 0},
        {"id": 4, "image_id": 5, "category_id": 90, "bbox": [1.5, 2, 30, 4], "area": 77.5, "iscrowd": 0},
    ]
    assert truth["images"] == content()["images"]
    assert truth["categories"] == [{"id": 3, "name": "dog"}, {"id": 90, "name": "cat"}]
    json.dumps(truth)  # plain Python numbers
    pycoco = COCO()
    pycoco.dataset = truth
    pycoco.createIndex()
    assert sorted(pycoco.getAnnIds(catIds=[90])) == [2, 3, 4]


def test_a_file_without_any_annotation_is_a_data_set(build):
    data = content()
    data["annotations"] = []
    dataset = build(data)
    assert [len(target["labels"]) for _, target in dataset] == [0, 0, 0]
    assert dataset.coco()["annotations"] == []
    assert len(build(data, KEEP_EMPTY=False)) == 0


def changed(where, key, value):
    data = content()
    data[where][-1][key] = value
    return data


def without(where, key):
    data = content()
    del data[where][-1][key]
    return data


def repeated(where):
    data = content()
    data[where].append(data[where][0])
    return data


@pytest.mark.parametrize(
    "data, message",
    [
        ("{broken", "not a JSON file"),
        ("[1]", "not COCO's format"),
        ("[" * 100_000, "not a JSON file"),
        ('{"images": [], "annotations": 1, "categories": []}', "annotations is missing or not a list of objects"),
        ('{"images": [], "annotations": [2], "categories": []}', "annotations is missing or not a list of objects"),
        ('{"images": [], "annotations": [], "categories": []}', "categories is empty"),
        (repeated("images"), "image id 12 occurs 2 times"),
        (repeated("categories"), "category id 90 occurs 2 times"),
        (without("images", "id"), r"image number 3 \(without id\): id must be a whole number, got None"),
        (without("images", "width"), "image 5: width must be a whole number of at least 1, got None"),
        (changed("images", "height", 0), "image 5: height must be a whole number of at least 1, got 0"),
        (changed("images", "height", 10.5), "image 5: height must be a whole number of at least 1, got 10.5"),
        (changed("images", "id", 10**30), "id must be a whole number"),
        (changed("images", "file_name", 3), "image 5: file_name must be a path of .*, got 3"),
        (changed("images", "file_name", "a\0.png"), "image 5: file_name must be a path of .*, got"),
        (changed("categories", "name", "cat"), "category name 'cat' occurs 2 times: categories 90 and 3"),
        (changed("annotations", "bbox", [1, 2, 3, True]), "annotation 3: bbox must be a list of four numbers"),
        ({**content(), "images": []}, "images is empty"),
        (changed("categories", "id", "3"), "category '3': id must be a whole number, got '3'"),
        (changed("categories", "name", None), "category 3: name must be a string, got None"),
        (changed("annotations", "category_id", 4), r"annotation 3: there is no category 4 \(there are: 3, 90\)"),
        (changed("annotations", "image_id", 6), r"annotation 3: there is no image 6 \(there are: 12, 5, 7\)"),
        (changed("annotations", "image_id", [5]), "annotation 3: image_id must be a whole number, got"),
        (changed("annotations", "bbox", [1, 2, 3]), r"annotation 3: bbox must be a list of four numbers.*\[1, 2, 3\]"),
        (changed("annotations", "bbox", "no"), "annotation 3: bbox must be a list of four numbers"),
        (changed("annotations", "bbox", [1, 2, 3, 10**400]), "annotation 3: bbox must be a list of four numbers"),
        (without("annotations", "bbox"), "annotation 3: bbox must be a list of four numbers.*got None"),
        (changed("annotations", "area", "big"), "annotation 3: area must be a number, got 'big'"),
        (changed("annotations", "iscrowd", [1]), "annotation 3: iscrowd must be a number"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(build, tmp_path, data, message):
    with pytest.raises(UserError, match=f"x.json: .*{message}") as caught:
        build(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "box",
    [
        [1, 2, 0, 5],  # no width
        [1, 2, 5, -3],  # inverted
        [50, 3, 5, 5],  # right of an image of width 50
        [-9, 3, 9, 5],  # left of it
        [1, 2, float("nan"), 5],
        [1, 2, float("inf"), 5],
        [1, 1e308, 1e308, 1e308],
    ],
)
def test_a_box_without_area_in_its_image_is_named_or_skipped(build, caplog, box):
    data = content()
    data["annotations"][0]["bbox"] = box
    with pytest.raises(UserError, match=r"x.json: annotation 0 of image 5 has the box \[.*1 of 4 boxes") as caught:
        build(data)
    assert str(box) in str(caught.value)
    assert "BAD_BOXES" in str(caught.value)

    dataset = build(data, BAD_BOXES="skip")
    assert "annotation 0 of image 5" in caplog.text and "1 of 4 boxes" in caplog.text
    assert [len(target["labels"]) for _, target in dataset] == [2, 0, 0]
    assert len(dataset.coco()["annotations"]) == 3


def test_missing_paths_are_named(tmp_path):
    with pytest.raises(UserError, match="needs ANNOTATIONS"):
        CocoDataset(images=str(tmp_path))
    with pytest.raises(UserError, match="none: no such folder"):
        CocoDataset(annotations="x.json", images=str(tmp_path / "none"))
    with pytest.raises(UserError, match="none.json: No such file or directory"):
        CocoDataset(annotations=str(tmp_path / "none.json"), images=str(tmp_path))


def test_images_that_are_missing_broken_or_of_another_size_are_named(build, tmp_path):
    dataset = build(content())
    Image.new("RGB", (40, 60)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="a.png: .* height 60 and width 40, but .*x.json says height 40 and width 60"):
        dataset[0]
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:50])
    with pytest.raises(UserError, match="b.png: cannot be read as an image"):
        dataset[1]
    (tmp_path / "c.png").unlink()
    with pytest.raises(UserError, match="c.png: no such image file"):
        dataset[2]


def test_an_index_counts_from_either_end_and_ends(build):
    dataset = build(content())
    assert dataset[-3][1]["boxes"].tolist() == dataset[0][1]["boxes"].tolist()
    with pytest.raises(IndexError):
        dataset[3]


def pixels(height, width, channels, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width, *channels), dtype=dtype)


def test_color_images_are_read_to_the_bit(tmp_path):
    values = pixels(4, 6, (3,))
    Image.fromarray(values).save(tmp_path / "x.png")
    assert np.array_equal(read_image(tmp_path / "x.png").permute(1, 2, 0).numpy(), values)


@pytest.mark.parametrize("dtype, shift", [(np.uint8, 0), (np.uint16, 8)])
def test_gray_images_of_8_and_16_bits_become_rgb(tmp_path, dtype, shift):
    values = pixels(4, 6, (), dtype)
    Image.fromarray(values).save(tmp_path / "x.png")
    assert np.array_equal(read_image(tmp_path / "x.png").numpy(), np.stack([values >> shift] * 3))


def test_alpha_is_dropped(tmp_path):
    values = pixels(4, 6, (4,))
    Image.fromarray(values).save(tmp_path / "x.png")
    assert np.array_equal(read_image(tmp_path / "x.png").permute(1, 2, 0).numpy(), values[..., :3])


def test_an_image_is_turned_upright_as_its_exif_data_says(tmp_path):
    values = pixels(4, 6, (3,))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    Image.fromarray(values).save(tmp_path / "x.png", exif=exif)
    upright = read_image(tmp_path / "x.png").permute(1, 2, 0).numpy()
    assert np.array_equal(upright, np.rot90(values, -1))
