"""YOLO's text files: valid lines, and faults with their file and line."""

import pytest
import torch
from PIL import Image

from detlite.data import Faults, YoloDataset, build_dataset
from detlite.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Return a function that writes {image's path: text of its labels, or None for no file}, images of 80 x 40."""

    def write(files, beside=False):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (80, 40)).save(path)
            labels = path.with_suffix(".txt")
            if not beside:
                labels = tmp_path / str(labels.relative_to(tmp_path)).replace("images", "labels", 1)
            if text is not None:
                labels.parent.mkdir(parents=True, exist_ok=True)
                labels.write_text(text)
        return tmp_path

    return write


def build(root, images=("images",), report=None, **keys):
    node = {"NAME": "YoloDataset", "ROOT": str(root), "IMAGES": list(images), "CLASSES": ["cat", "dog"], **keys}
    keys = {key.lower(): value for key, value in node.items() if key != "NAME"}
    return YoloDataset(report, **keys) if report is not None else YoloDataset(**keys)


def test_centers_and_sides_are_parts_of_width_and_height(folder):
    image, target = build(folder({"images/a.png": "1 0.5 0.25 0.5 0.125\n\n0 0.25 0.5 0.25 1\n"}))[0]
    assert image.shape == (3, 40, 80)
    assert target["boxes"].tolist() == [[20, 7.5, 60, 12.5], [10, 0, 30, 40]]
    assert target["labels"].tolist() == [2, 1] and target["image_id"] == 1


def test_links_are_followed_and_hidden_files_are_not_read(folder):
    root = folder({"elsewhere/images/a.png": "", "images/b.png": "", "images/._b.png": "no label"})
    (root / "images/more").symlink_to(root / "elsewhere/images")
    assert [build(root).image_file(index).rpartition("/")[2] for index in range(2)] == ["b.png", "a.png"]
    assert len(build(root)) == 2


def test_a_polygon_counts_as_the_box_around_it(folder):
    root = folder({"images/a.png": "0 0.5 0.25 1 0.25 0.75 0.75\n"})
    assert build(root)[0][1]["boxes"].tolist() == [[40, 10, 80, 30]]


def test_an_image_without_a_file_has_no_objects_and_is_kept_or_not(folder):
    files = {"images/a.png": None, "images/b.png": "", "images/c.png": "0 0.5 0.5 0.5 0.5"}
    dataset = build(folder(files))
    assert [len(target["labels"]) for _, target in dataset] == [0, 0, 1]
    assert len(build(folder(files), keep_empty=False)) == 1


def test_labels_of_another_split_s_images_are_not_alone(folder):
    root = folder({f"images/{name}.png": "0 0.5 0.5 0.5 0.5" for name in "abcd"})
    (root / "labels/z.txt").write_text("")
    for split in ("train", "test"):
        faults = Faults()
        assert 0 < len(build(root, report=faults, split=split, folds=2)) < 4
        alone = faults["files of labels without an image"]
        assert alone.count == 1 and alone.examples == [f"{root}/labels/z.txt: there is no image of this name"]


def test_the_line_on_dropped_objects_names_the_split(folder, caplog):
    root = folder({f"images/{name}.png": "1 0.5 0.5 0.5 0.5" for name in "abcd"})
    with caplog.at_level("INFO"):
        number = len(build(root, keep_classes=["cat"], other_classes="drop", split="test", folds=2))
    assert f"images (SPLIT test, FOLDS 2, FOLD 0): classes: dog -> dropped ({number} objects)" in caplog.text


def test_labels_are_in_the_folder_labels_or_beside_the_image(folder):
    text = "0 0.5 0.5 0.5 0.5"
    for files, images, beside in (
        ({"one/images/train/a.png": text}, ["one/images/train"], False),
        ({"two/train/images/a.png": text}, ["two/train/images"], False),
        ({"three/train/a.png": text}, ["three"], True),
        ({"four/images/a.png": text}, ["four/images"], True),
    ):
        assert build(folder(files, beside), images)[0][1]["boxes"].tolist() == [[20, 10, 60, 30]]


def test_a_list_of_images_counts_from_its_own_folder_or_from_the_root(folder):
    root = folder({"images/a.png": "0 0.5 0.5 1 1", "images/b.png": "", "sets/c.png": None})
    (root / "sets/train.txt").write_text("images/b.png\n./c.png\n\n..\\images\\a.png\n")
    dataset = build(root, ["sets/train.txt"])
    names = [image["file_name"] for image in dataset.coco()["images"]]
    assert names == ["images/b.png", "sets/c.png", "images/a.png"]
    (root / "sets/train.txt").write_text("images/none.png\nimages/a.png\nimages/a.png\n")
    with pytest.raises(UserError, match=r"train\.txt:1: images/none\.png: no such image; 1 of 3 images"):
        build(root, ["sets/train.txt"])
    faults = Faults()
    assert len(build(root, ["sets/train.txt"], faults)) == 1
    assert {kind: fault.count for kind, fault in faults.items()} == {"missing images": 1, "images listed twice": 1}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.5 0.5 0.5", "expected class, center x, center y, width, height, or class and a polygon, got '0 0.5"),
        ("0 0.5 0.5 0.5 0.5 0.9", "expected class, center x"),  # a score
        ("0 0.1 0.2 0.3 0.4 0.5 0.6 0.7", "expected class, center x"),
        ("cat 0.5 0.5 0.5 0.5", "expected class, center x"),
        ("0,0.5,0.5,0.5,0.5", "expected class, center x"),
        ("2 0.5 0.5 0.5 0.5", r"expected a class from 0 to 1 \(see CLASSES\), got '2 0.5"),
        ("-1 0.5 0.5 0.5 0.5", "expected a class from 0 to 1"),
        ("0.5 0.5 0.5 0.5 0.5", "expected a class from 0 to 1"),
        ("nan 0.5 0.5 0.5 0.5", "expected a class from 0 to 1"),
        ("0 0.5 0.5 0 0.5", r"has the box '0 0\.5 0\.5 0 0\.5', which has no area \(its image has width 80"),
        ("0 0.5 0.5 -0.5 0.5", "is inverted"),
        ("0 nan 0.5 0.5 0.5", "is not finite"),
        ("0 40 20 30 30", "is outside its image"),  # pixels
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number_or_collected(folder, line, words):
    root = folder({"images/a.png": f"0 0.5 0.5 0.5 0.5\n{line}\n"})
    with pytest.raises(UserError, match=rf"labels/a\.txt:2: .*{words}.*1 of 2 (lines|boxes)"):
        build(root)
    faults = Faults()
    assert len(build(root, report=faults)[0][1]["labels"]) == 1
    assert [(fault.count, fault.is_error) for fault in faults.values()] == [(1, True)]


def test_bad_boxes_can_be_skipped(folder):
    dataset = build(folder({"images/a.png": "0 0.5 0.5 0 1\n1 0.5 0.5 1 1\n"}), bad_boxes="skip")
    assert dataset[0][1]["labels"].tolist() == [2]


def test_sizes_are_those_of_the_upright_image(folder):
    root = folder({"images/a.jpg": "0 0.5 0.5 1 0.5"})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 40)).save(root / "images/a.jpg", exif=exif)
    image, target = build(root)[0]
    assert image.shape == (3, 80, 40) and target["boxes"].tolist() == [[0, 20, 40, 60]]


def test_an_image_that_cannot_be_read_is_told_when_it_is_its_turn(folder):
    root = folder({"images/a.png": "0 0.5 0.5 1 0.5", "images/b.png": "1 0.5 0.5 1 1"})
    (root / "images/a.png").write_bytes(b"no image")
    dataset = build(root)
    with pytest.raises(UserError, match=r"a\.png: cannot be read as an image"):
        dataset[0]
    assert dataset[1][1]["labels"].tolist() == [2]


def test_what_is_missing_is_named(folder):
    root = folder({"images/a.png": None})
    with pytest.raises(UserError, match=r"needs IMAGES.*CLASSES"):
        build_dataset({"NAME": "YoloDataset"})
    with pytest.raises(UserError, match=r"a\.png: neither this nor any other of 1 images .*labels/a\.txt or .*/a\.txt"):
        build(root)
    with pytest.raises(UserError, match="none: no such folder"):
        build(root, ["none"])
    (root / "empty").mkdir()
    with pytest.raises(UserError, match="empty: there is no image"):
        build(root, ["empty"])


def test_a_fifth_of_the_images_rounded_up_is_to_test_on_and_the_others_to_train(folder):
    root = folder({f"images/{index}.png": f"0 0.{index + 1} 0.5 0.1 0.1" for index in range(6)})
    parts = {split: build(root, split=split) for split in ("all", "train", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"all": 6, "train": 4, "test": 2}
    names = {split: {row["file_name"] for row in part.coco()["images"]} for split, part in parts.items()}
    assert names["train"] | names["test"] == names["all"] and not names["train"] & names["test"]
    for index in range(2):  # each image has kept its own box
        center = int(parts["test"].coco()["images"][index]["file_name"][7]) + 1
        boxes = parts["test"][index][1]["boxes"].as_subclass(torch.Tensor)
        torch.testing.assert_close(boxes, torch.tensor([[8.0 * center - 4, 18, 8 * center + 4, 22]]))
