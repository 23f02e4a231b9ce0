"""From a folder of user data to a trained model: formats recognized, values chosen, and errors reported."""

import json
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detlite.checkpoint import save_checkpoint
from detlite.cli import main
from detlite.config import load_config
from detlite.config.load import load_config_text
from detlite.data import ShapesDataset, build_dataset
from detlite.errors import UserError
from detlite.modeling import build_model
from detlite.preparation import choose_input, write_config
from detlite.preparation.anchor_recall import judge_anchors
from detlite.preparation.anchors import Objects, training_objects
from detlite.preparation.choose_input import choose_anchors, choose_inputs
from detlite.preparation.find import find_data
from detlite.preparation.write_config import new_config

CROWDS = Path(__file__).parents[2] / "benchmarks/crowds.py"
SHAPES = ShapesDataset(num_images=6, image_size=64, max_objects=3)
CLASSES = SHAPES.classes


def image(root, name, index):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(SHAPES[index][0].permute(1, 2, 0).numpy()).save(path)
    return path


def coco(root, name, images, indices=range(6)):
    """Write a JSON file, and its images."""
    truth = SHAPES.coco()
    for row in truth["images"]:
        row["file_name"] = f"{row['id']}.png"
    truth["images"] = [row for row in truth["images"] if row["id"] in indices]
    truth["annotations"] = [row for row in truth["annotations"] if row["image_id"] in indices]
    for index in indices:
        image(root, f"{images}/{index}.png", index)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(truth))


def voc(root, annotations, images, indices=range(6)):
    for index in indices:
        image(root, f"{images}/{index}.png", index)
        target = SHAPES[index][1]
        objects = ""
        for label, (x1, y1, x2, y2) in zip(target["labels"].tolist(), target["boxes"].tolist(), strict=True):
            box = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            objects += f"<object><name>{CLASSES[label - 1]}</name><bndbox>{box}</bndbox></object>"
        (root / annotations).mkdir(parents=True, exist_ok=True)
        (root / annotations / f"{index}.xml").write_text(f"<annotation>{objects}</annotation>")


def yolo(root, labels, images, indices=range(6)):
    for index in indices:
        image(root, f"{images}/{index}.png", index)
        target = SHAPES[index][1]
        lines = ""
        for label, (x1, y1, x2, y2) in zip(target["labels"].tolist(), target["boxes"].tolist(), strict=True):
            lines += f"{label - 1} {(x1 + x2) / 128} {(y1 + y2) / 128} {(x2 - x1) / 64} {(y2 - y1) / 64}\n"
        (root / labels).mkdir(parents=True, exist_ok=True)
        (root / labels / f"{index}.txt").write_text(lines)


def names(root, text="circle\nsquare\ntriangle\n", file="classes.txt"):
    (root / file).write_text(text)


def coco_in_one_file(root):
    coco(root, "labels.json", "pictures")


def coco_split(root):
    coco(root, "annotations/instances_train2017.json", "train2017", range(4))
    coco(root, "annotations/instances_val2017.json", "val2017", range(4, 6))
    coco(root, "annotations/captions_val2017.json", "val2017", range(4, 6))


def coco_of_roboflow(root):
    for split, indices in (("train", range(4)), ("valid", range(4, 6))):
        coco(root, f"{split}/_annotations.coco.json", split, indices)


def voc_flat(root):
    voc(root, ".", ".")


def voc_split_flat(root):
    voc(root, "train", "train", range(4))
    voc(root, "test", "test", range(4, 6))


def voc_without_image_sets(root):
    voc(root, "Annotations", "JPEGImages")


def voc_with_image_sets(root):
    for year, indices in (("VOC2007", range(4)), ("VOC2012", range(4, 6))):
        voc(root, f"{year}/Annotations", f"{year}/JPEGImages", indices)
        (root / year / "ImageSets/Main").mkdir(parents=True)
    (root / "VOC2007/ImageSets/Main/trainval.txt").write_text("0\n1\n2\n3\n")
    (root / "VOC2007/ImageSets/Main/test.txt").write_text("")
    (root / "VOC2007/ImageSets/Main/trainval.txt").write_text("0\n1\n2\n")
    (root / "VOC2007/ImageSets/Main/test.txt").write_text("3\n")
    (root / "VOC2012/ImageSets/Main/trainval.txt").write_text("4\n5\n")


def yolo_with_classes(root):
    yolo(root, "labels", "images")
    names(root)


def yolo_darknet(root):
    yolo(root, "obj_train_data", "obj_train_data")
    names(root, file="obj.names")


def yolo_with_data_yaml(root):
    yolo(root, "labels/train", "images/train", range(4))
    yolo(root, "labels/val", "images/val", range(4, 6))
    text = (
        "path: ../datasets/shapes\ntrain: images/train\nval: images/val\nnames: {0: circle, 1: square, 2: triangle}\n"
    )
    names(root, text, "shapes.yaml")


def yolo_of_roboflow(root):
    yolo(root, "train/labels", "train/images", range(4))
    yolo(root, "valid/labels", "valid/images", range(4, 6))
    text = (
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 3\nnames: [circle, square, triangle]\n"
    )
    names(root, text, "data.yaml")


DIVIDED = [coco_split, coco_of_roboflow, voc_split_flat, voc_with_image_sets, yolo_with_data_yaml, yolo_of_roboflow]
WHOLE = [coco_in_one_file, voc_flat, voc_without_image_sets, yolo_with_classes, yolo_darknet]


@pytest.mark.parametrize("write", [*DIVIDED, *WHOLE], ids=lambda write: write.__name__)
def test_a_folder_is_recognized_and_every_object_of_it_is_found(write, tmp_path):
    write(tmp_path)
    found = find_data(tmp_path)
    assert write.__name__.startswith(found.format)
    parts = [build_dataset(node) for node in [*found.train, *found.tests]]
    expected = {"voc_with_image_sets": (5, 1)}.get(write.__name__, (4, 2))
    assert (sum(map(len, parts[:-1])), len(parts[-1])) == expected
    assert write in DIVIDED or {node["SPLIT"] for node in found.train} == {"train"} and "SPLIT" in found.remarks[0]
    seen = {}
    for part in parts:
        assert part.classes == CLASSES
        for index in range(len(part)):
            stem = int(part.image_file(index).rpartition("/")[2].partition(".")[0])
            picture, seen[stem] = part[index]
            assert torch.equal(picture, SHAPES[stem][0])
    assert sorted(seen) == list(range(6))
    for stem, target in seen.items():
        torch.testing.assert_close(target["boxes"], SHAPES[stem][1]["boxes"], check_dtype=False)
        assert torch.equal(target["labels"], SHAPES[stem][1]["labels"])


def test_photographs_are_preferred_to_masks_of_the_same_names(tmp_path):
    voc(tmp_path, "annotations/xmls", "images")
    for index in range(6):
        image(tmp_path, f"annotations/masks/{index}.png", index)
    assert {node["IMAGES"] for node in find_data(tmp_path).train} == {"images"}


def test_images_in_a_folder_inside_another_one_are_listed_once(tmp_path):
    yolo(tmp_path, "labels", "images", range(4))
    yolo(tmp_path, "labels/test", "images/test", range(4, 6))
    names(tmp_path)
    found = find_data(tmp_path)
    files = []
    for part in [build_dataset(node) for node in [*found.train, *found.tests]]:
        files += [part.image_file(index) for index in range(len(part))]
    assert len(set(files)) == len(files) == 6


@pytest.mark.parametrize("folders", [(".", "more"), ("2021.05.01", "2021.05.02")])
def test_voc_files_in_several_folders_have_different_titles(tmp_path, folders):
    for number, folder in enumerate(folders):
        voc(tmp_path, folder, folder, range(3 * number, 3 * number + 3))
    text, *_ = new_config(tmp_path, "x.yaml")
    titles = [node.TITLE for node in load_config_text(text, "x.yaml").DATASETS.TEST]
    assert len(set(titles)) == len(titles) == 2


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["train", "val", "val_far", "val-far"], [["train"], ["val"], ["val-far"], ["val_far"]]),
        (["train", "val", "val1", "val.old", "test_tube_train", "test_tube_val"], [["train"], ["val"]]),
        (["train", "valid"], [["train"], ["valid"]]),
        (["val", "val_far"], [["val"], ["val"]]),
        (["all"], [["all"], ["all"]]),
    ],
)
def test_image_sets_are_told_apart_by_their_names(tmp_path, sets, expected):
    voc(tmp_path, "Annotations", "JPEGImages")
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    for name in sets:
        (tmp_path / f"ImageSets/Main/{name}.txt").write_text("0\n1\n2\n")
    found = find_data(tmp_path)
    assert [node["IMAGE_SETS"] for node in (*found.train, *found.tests)] == expected
    new_config(tmp_path, "x.yaml")


def test_training_files_of_different_classes_are_refused(tmp_path):
    coco(tmp_path, "train_a.json", "images", range(3))
    coco(tmp_path, "train_b.json", "images", range(3, 6))
    truth = json.loads((tmp_path / "train_b.json").read_text())
    truth["categories"].append({"id": 9, "name": "star"})
    (tmp_path / "train_b.json").write_text(json.dumps(truth))
    with pytest.raises(UserError, match=r"has other classes than .*'star'"):
        new_config(tmp_path, "x.yaml")


def test_an_unusual_name_is_quoted_as_output_dir(tmp_path):
    coco_in_one_file(tmp_path)
    for name in ("cells #2", "a: b"):
        text, *_ = new_config(tmp_path, tmp_path / f"{name}.yaml")
        assert load_config_text(text, "x.yaml").OUTPUT_DIR == f"output/{name}"


@pytest.mark.parametrize("classes", [[], ["triangle", "circle"]])
@pytest.mark.parametrize("more", [{}, {"val_far": "5\n", "test_b": "3\n"}])
def test_a_test_split_beside_a_validation_split_is_told_of_image_sets_too(tmp_path, classes, more):
    voc(tmp_path, "Annotations", "JPEGImages")
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    sets = {
        "train": "0\n1\n",
        "val": "2\n3\n",
        "trainval": "0\n1\n2\n3\n",
        "test": "4\n5\n",
        "circle_val": "2 1\n",
        **more,
    }
    for name, indices in sets.items():
        (tmp_path / f"ImageSets/Main/{name}.txt").write_text(indices)
    found = find_data(tmp_path, names=classes)
    expected = [["train"], ["val"], ["val_far"]] if more else [["train"], ["val"]]
    assert [node["IMAGE_SETS"] for node in (*found.train, *found.tests)] == expected
    assert "keep the test split for the end" in found.remarks[0]
    assert not more or found.remarks[1].startswith("2 test sets: val, val_far; ")

    # The command tests the test split with the classes that were chosen.
    command = found.remarks[0].partition("`")[2].rstrip("`").split(" ", 4)
    assert command[:4] == ["detlite", "test", "--weights", "W"]
    tests = load_config(opts=shlex.split(command[4])).DATASETS.TEST
    built = list(map(build_dataset, tests if more else [tests]))
    assert list(map(len, built)) == ([2, 1] if more else [2])
    assert all(dataset.classes == (classes or CLASSES) for dataset in built)


def test_image_sets_may_list_images_in_subfolders(tmp_path):
    voc(tmp_path, "Annotations/farm/day 1", "JPEGImages/farm/day 1", range(4))
    voc(tmp_path, "Annotations", "JPEGImages", range(4, 6))
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("farm/day 1/1\n4\nfarm/day 1/0\n")
    (tmp_path / "ImageSets/Main/val.txt").write_text("5\nfarm/day 1/3\n")
    found = find_data(tmp_path)
    files = []
    for dataset in map(build_dataset, (*found.train, *found.tests)):
        assert dataset.classes == CLASSES
        files += [Path(dataset.image_file(index)).relative_to(tmp_path / "JPEGImages") for index in range(len(dataset))]
    assert list(map(str, files)) == [
        f"{name}.png" for name in ("farm/day 1/1", "4", "farm/day 1/0", "5", "farm/day 1/3")
    ]
    (tmp_path / "ImageSets/Main/train.txt").write_text("farm/1\n")
    with pytest.raises(UserError, match=r"JPEGImages/farm/1.jpg: no such image, but .*train.txt lists it"):
        new_config(tmp_path, "x.yaml")
    (tmp_path / "ImageSets/Main/train.txt").write_text("fram/1\n")
    with pytest.raises(UserError, match=r"JPEGImages/fram: no such folder, but .*train.txt needs it"):
        new_config(tmp_path, "x.yaml")


@pytest.mark.parametrize("first, one_based", [(0, False), (1, True)])
def test_files_of_voc_s_format_with_a_box_at_0_count_pixels_from_0(tmp_path, first, one_based):
    voc_flat(tmp_path)
    corners = f"<xmin>{first}</xmin><ymin>5</ymin><xmax>20</xmax><ymax>20</ymax>"
    text = f"<annotation><object><name>circle</name><bndbox>{corners}</bndbox></object></annotation>"
    (tmp_path / "0.xml").write_text(text)
    found = find_data(tmp_path)
    assert found.tests[0].get("ONE_BASED", True) is one_based
    assert any("ONE_BASED" in remark for remark in found.remarks) is not one_based


def test_what_is_no_data_is_said_with_what_was_expected(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match=r"cells: no such folder; there is no .*/dta; did you mean .*/data\?$"):
        find_data(tmp_path / "dta" / "cells")
    (tmp_path / "data" / "train.json").touch()
    with pytest.raises(UserError, match=r"train\.json: a file, expected a folder$"):
        find_data(tmp_path / "data" / "train.json")
    (tmp_path / "data" / "train.json").unlink()
    with pytest.raises(UserError, match="none: no such folder$"):
        find_data(tmp_path / "none")
    image(tmp_path, "a.png", 0)
    (tmp_path / "a.json").write_text('{"shapes": []}')  # LabelMe's
    (tmp_path / "a.xml").write_text("<svg/>")
    with pytest.raises(
        UserError, match=r"no data in a known format: it holds (1 \.\w+(, )?){3}; expected one of\n  coco"
    ):
        find_data(tmp_path)


def test_several_formats_or_test_sets_are_to_be_told_apart(tmp_path):
    voc_flat(tmp_path)
    coco(tmp_path, "a.json", ".")
    with pytest.raises(UserError, match="in several formats: coco, voc; .*--format"):
        find_data(tmp_path)
    assert find_data(tmp_path, "voc").train[0]["ANNOTATIONS"] == "."
    coco(tmp_path, "b.json", ".")
    found = find_data(tmp_path, "coco")
    assert {node["SPLIT"] for node in found.train} == {"train"} and {node["SPLIT"] for node in found.tests} == {"test"}
    assert {node["ANNOTATIONS"] for node in found.train} == {node["ANNOTATIONS"] for node in found.tests}


def test_several_test_sets_are_a_list_with_titles(tmp_path):
    for name, indices in (("train", range(3)), ("val", range(3, 5)), ("val_far", [5])):
        coco(tmp_path, f"{name}.json", name, indices)
    text, *_ = new_config(tmp_path, "x.yaml")
    (tmp_path / "x.yaml").write_text(text)
    tests = load_config(tmp_path / "x.yaml").DATASETS.TEST
    assert {node.TITLE: len(build_dataset(node)) for node in tests} == {"val": 2, "val_far": 1}


@pytest.mark.parametrize("write", [coco_in_one_file, voc_flat, yolo_with_classes], ids=lambda write: write.__name__)
def test_the_config_uses_the_given_classes_and_drops_all_others(tmp_path, write):
    write(tmp_path)
    text, *_ = new_config(tmp_path, "x.yaml", names=["triangle", "circle"])
    (tmp_path / "x.yaml").write_text(text)
    cfg = load_config(tmp_path / "x.yaml")
    for node in (*cfg.DATASETS.TRAIN, cfg.DATASETS.TEST):
        assert build_dataset(node).classes == ["triangle", "circle"] and node.OTHER_CLASSES == "drop"
    with pytest.raises(UserError, match="no class 'cirle'; did you mean circle"):
        new_config(tmp_path, "x.yaml", names=["cirle"])


def test_a_broken_file_of_a_split_is_an_error_and_not_left_out(tmp_path):
    coco_split(tmp_path)
    (file,) = tmp_path.rglob("*train2017.json")
    file.write_text(file.read_text()[:-100])
    with pytest.raises(UserError, match=r"train2017\.json: not a JSON file"):
        find_data(tmp_path)
    file.write_text("[]")  # whatever it is, it is no broken file
    assert find_data(tmp_path).tests


@pytest.mark.parametrize(
    ("names", "train", "message"),
    [
        ("~", "images/train", "names: expected a list, or a mapping from numbers to names, got null"),
        ("5", "images/train", "names: expected a list, or a mapping from numbers to names, got 5"),
        ("{0: a, x: b}", "images/train", r"names must be numbered from 0 without gaps, got \[0, 'x'\]"),
        ("[a, b]", "3", "train: expected a folder or a list of folders, got 3"),
        ("[a, b]", "[3]", r"train: expected a folder or a list of folders, got \[3\]"),
    ],
)
def test_a_wrong_value_in_data_yaml_is_named(tmp_path, names, train, message):
    yolo_with_data_yaml(tmp_path)
    (tmp_path / "shapes.yaml").write_text(f"names: {names}\ntrain: {train}\nval: images/val\n")
    with pytest.raises(UserError, match=rf"shapes\.yaml: {message}"):
        find_data(tmp_path)


def test_class_names_that_are_not_utf_8_are_refused_with_their_line(tmp_path):
    yolo_with_classes(tmp_path)
    (tmp_path / "classes.txt").write_bytes("circle\nBär\ntriangle\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"classes\.txt:2: not UTF-8: byte 0xe4"):
        find_data(tmp_path)


def test_another_broken_file_is_left_out_with_a_warning(tmp_path, caplog):
    coco(tmp_path, "train.json", ".")
    coco(tmp_path, "val.json", ".")
    (tmp_path / "metrics.json").write_text("{}\n{}\n")
    with caplog.at_level("WARNING"):
        assert find_data(tmp_path).tests
    assert "left out: " in caplog.text and "metrics.json: not a JSON file" in caplog.text


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda root: (coco_split(root), (root / "val2017/4.png").unlink()), r"val2017\.json: no folder .* '4\.png'"),
        (lambda root: (voc_flat(root), [p.unlink() for p in root.glob("*.png")]), r"0\.xml: no folder .* of this name"),
        (
            lambda root: (yolo_with_data_yaml(root), (root / "images/val").rename(root / "v")),
            r"shapes\.yaml: val: images/val: there is no .*images/val",
        ),
    ],
)
def test_images_that_are_nowhere_are_named(tmp_path, write, message):
    write(tmp_path)
    with pytest.raises(UserError, match=message):
        find_data(tmp_path)


def objects_of(sides, image_side):
    boxes = np.repeat(np.array(sides, float), 2).reshape(-1, 2)
    boxes = np.hstack([np.zeros_like(boxes), boxes])
    return Objects(boxes, np.full((len(sides), 2), image_side), np.zeros(len(sides), int))


def test_the_balanced_side_shows_nine_of_ten_objects_at_64_px():
    def sides(*objects, size=None):
        return {
            item.choice: item.size for item in choose_inputs(objects_of(objects, 200), np.array([[200, 200]]), size)
        }

    # In an image of 200 px 2 objects measure 25 px, and 18 measure 40 px. The quantile is 38.5 px; 200 * 64 / 38.5 is
    # 332.5, a little less than 21 * 16; fast, at which they measure 32 px, is half of it, a little more than 10 * 16.
    assert sides(*[25] * 2, *[40] * 18) == {"balanced": 336, "fast": 176, "quality": 512}
    assert sides(1) == {"balanced": 608, "fast": 400, "quality": 800}
    assert sides(200) == {"balanced": 256, "fast": 128, "quality": 384}
    assert list(sides(200, size=100).items())[0] == ("given", 100)


def test_tiles_are_chosen_where_objects_are_tiny_in_large_images():
    chosen, whole = choose_inputs(objects_of([12] * 5 + [40] * 95, 2000), np.array([[2000, 2000]]))
    assert (chosen.tile, chosen.overlap, whole.tile, whole.size) == (512, 40, 0, 608)
    row = chosen.row(objects_of([12] * 5 + [40] * 95, 2000), np.array([[2000, 2000]]))
    # Five tiles a side: (2000 - 512) / (512 - 40) is 3.2.
    assert row["objects < 16 px"] == "5.0%" and row["pixels"] == 25 * 512**2
    assert whole.row(objects_of([50, 54], 2000), np.array([[2000, 1000]]))["objects < 16 px"] == "50.0%"
    (chosen, *_) = choose_inputs(objects_of([12], 600), np.array([[600, 600]]))  # no larger than the network's input
    assert chosen.tile == 0


def test_each_level_of_a_pyramid_has_anchors_for_its_objects():
    sizes = np.array([[10.0, 10], [12, 12], [14, 14], [40, 40], [44, 44], [48, 48], [100, 100]])
    squares = [[64, 64], [80.6, 80.6], [100.8, 100.8]]  # 100 px alone is too few for three anchors
    levels = choose_anchors(sizes, 3, is_pyramid=True)
    assert levels == [[[10, 10], [12, 12], [14, 14]], [[40, 40], [44, 44], [48, 48]], squares]


@pytest.mark.parametrize(
    ("recalls", "detector", "per_cell"),
    [
        ([0.95], "VGG", None),
        ([0.8, 0.95], "FPN", 3),
        ([0.8, 0.7, 0.95], "FPN", 9),
        ([0.8, 0.7, 0.85], "FPN", 9),  # none suits the objects: the best of all
        ([0.8, 0.7, 0.6], "VGG", None),
    ],
)
def test_the_first_detector_that_suits_the_objects_is_chosen_or_the_best(
    tmp_path, monkeypatch, recalls, detector, per_cell
):
    def judge(cfg, objects, classes):
        recall = recalls.pop(0)
        return [{"objects": "all", "number": 30, "recall at 0.5": recall}], "" if recall > 0.9 else "other anchors"

    coco_in_one_file(tmp_path)
    monkeypatch.setattr(write_config, "judge_anchors", judge)
    text, *_ = new_config(tmp_path, tmp_path / "shapes.yaml")
    cfg = load_config_text(text, "shapes.yaml")
    assert cfg.MODEL.BACKBONE.NAME == detector and not recalls
    if per_cell:
        assert [len(level) for level in cfg.MODEL.RPN.ANCHOR_GENERATOR.ANCHORS] == 3 * [per_cell]


def test_a_crowd_gets_tiles_a_pyramid_and_limits_and_passes_its_check(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choose_input, "TIMED", 64)
    options = ["--images", "1", "1", "--size", "800", "--objects", "80", "--sides", "10", "16"]
    subprocess.run([sys.executable, CROWDS, "crowds", *options], check=True)
    assert main(["init", "crowds"]) == 0
    out = capsys.readouterr().out
    assert "chosen: tiles of 512 px (balanced); " in out
    assert out.count("1 images, 80 objects") == 2  # each file is read once
    cfg = load_config("crowds.yaml")
    assert cfg.DATASETS.TRAIN[0].NAME == "TiledDataset" and cfg.MODEL.TEST_TILE == 512
    assert cfg.MODEL.BACKBONE.NAME == "FPN" and cfg.TRANSFORMS.TRAIN[0].PRESET == "large"
    assert cfg.MODEL.ROI_HEADS.DETECTIONS_PER_IMAGE == cfg.EVALUATION.EVALUATORS[0].MAX_DETECTIONS[-1] == 200
    assert main(["check", "--config-file", "crowds.yaml", "--data-only"]) == 0
    assert "bbox AP 1.000" in capsys.readouterr().out
    found = training_objects(cfg)
    assert judge_anchors(cfg, *found)[1] == ""


def test_three_commands_lead_from_a_folder_to_a_tested_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choose_input, "TIMED", 64)
    yolo_with_classes(tmp_path / "my shapes")
    assert main(["init", "my shapes"]) == 0
    out = capsys.readouterr().out
    assert "wrote my shapes.yaml" in out and "note: no names divide the images into train and val or test" in out
    assert all(f"  detlite {command} --config-file 'my shapes.yaml'" in out for command in ("check", "train"))
    assert "  detlite test --weights 'output/my shapes/model_final.pth' --report" in out
    cfg = load_config("my shapes.yaml")
    assert cfg.SOLVER.BATCH_SIZE == 4 and cfg.SOLVER.EPOCHS == 1000 and cfg.TRANSFORMS.TRAIN[1].SIZE % 16 == 0
    small = [
        "SOLVER.MAX_ITER",
        "2",
        "DATASETS.NUM_WORKERS",
        "0",
        "MODEL.BACKBONE.WIDTH",
        "0.0625",
        "MODEL.DEVICE",
        "cpu",
    ]
    small += ["TRANSFORMS.TRAIN.1.SIZE", "64", "TRANSFORMS.TEST.0.SIZE", "64"]
    assert main(["train", "--config-file", "my shapes.yaml", *small]) == 0
    log = (tmp_path / "output/my shapes/log.txt").read_text()
    assert log.index("recall at FOREGROUND_IOU") < log.index("class circle") < log.index("step 1/")
    assert main(["test", "--weights", "output/my shapes/model_final.pth"]) == 0
    assert json.loads((tmp_path / "output/my shapes/evaluation.json").read_text())["bbox"]["AP"] is not None
    assert main(["init", "my shapes"]) == 1
    assert "exists already, perhaps with your changes" in capsys.readouterr().err


def test_bad_and_repeated_boxes_are_left_out_by_the_config_and_other_faults_refused(tmp_path):
    yolo_with_classes(tmp_path)
    with open(tmp_path / "labels/0.txt", "a") as file:
        file.write("0 0.5 0.5 0 0.5\n" + "0 0.5 0.5 0.25 0.5\n" * 2)
    text, notes, _ = new_config(tmp_path, "x.yaml")
    assert "BAD_BOXES: skip" in text and any("1 boxes without area, left out" in note for note in notes)
    assert "DUPLICATES: drop" in text and any("1 repeated objects, left out" in note for note in notes)
    (tmp_path / "x.yaml").write_text(text)
    build_dataset(load_config(tmp_path / "x.yaml").DATASETS.TRAIN[0])
    with open(tmp_path / "labels/0.txt", "a") as file:
        file.write("7 0.5 0.5 0.5 0.5\n")
    with pytest.raises(UserError, match=r"0\.txt:\d+: expected a class from 0 to 2 .*\nfix these first"):
        new_config(tmp_path, "x.yaml")


def test_a_test_split_of_other_classes_is_refused(tmp_path):
    coco_split(tmp_path)
    (file,) = tmp_path.rglob("instances_val2017.json")
    truth = json.loads(file.read_text())
    gone = truth["categories"].pop()["id"]
    truth["annotations"] = [row for row in truth["annotations"] if row["category_id"] != gone]
    file.write_text(json.dumps(truth))
    with pytest.raises(UserError, match="DATASETS.TEST: its classes are .* must have the same classes"):
        new_config(tmp_path, "x.yaml")


def test_an_empty_folder_of_image_sets_counts_as_none(tmp_path):
    voc_without_image_sets(tmp_path)
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    assert find_data(tmp_path).train[0]["ANNOTATIONS"] == "Annotations"


def test_images_without_any_object_are_refused(tmp_path):
    yolo_with_classes(tmp_path)
    for path in (tmp_path / "labels").iterdir():
        path.write_text("")
    with pytest.raises(UserError, match="the images to train on have no objects .format: yolo"):
        new_config(tmp_path, "x.yaml")


def test_weights_decide_on_the_backbone(tmp_path, tiny_opts):
    yolo_with_classes(tmp_path)
    cfg = load_config(opts=tiny_opts(MODEL__BACKBONE__NORM="BatchNorm"))
    torch.manual_seed(0)
    save_checkpoint({"model": build_model(cfg).state_dict()}, tmp_path / "own.pth")
    text, *_ = new_config(tmp_path, "x.yaml", str(tmp_path / "own.pth"))
    assert "BACKBONE: {NAME: VGG, DEPTH: 11, NORM: BatchNorm, WIDTH: 0.0625, FREEZE_AT: 2}" in text
    assert f"WEIGHTS: {tmp_path}/own.pth" in text and "EPOCHS: 250 " in text  # 500 steps of 2 of 4 images
    gray = {name: value[:, :1] if value.dim() == 4 else value for name, value in build_model(cfg).state_dict().items()}
    for state in ({"other.weight": torch.ones(1)}, gray):
        save_checkpoint({"model": state}, tmp_path / "other.pth")
        with pytest.raises(UserError, match="takes a VGG's"):
            new_config(tmp_path, "x.yaml", str(tmp_path / "other.pth"))


@pytest.mark.parametrize(
    ("layer", "size", "config"),
    [
        ("backbone.body.16.0.weight", 800, "torchvision/fasterrcnn_mobilenet_v3_large_fpn"),
        ("backbone.body.layer4.2.conv3.weight", 320, "torchvision/fasterrcnn_resnet50_fpn"),
        ("backbone.fpn_lateral2.weight", 800, "detectron2/faster_rcnn_r50_fpn"),
        ("roi_heads.res5.0.conv1.weight", 320, "detectron2/faster_rcnn_r50_c4"),
    ],
)
def test_a_detectors_weights_bring_its_config_and_size(tmp_path, layer, size, config):
    yolo_with_classes(tmp_path)
    torch.save({layer: torch.ones(1), "roi_heads.box_predictor.cls_score.bias": torch.ones(4)}, tmp_path / "net.pth")
    asked = None if size == 800 else size
    text, *_ = new_config(tmp_path, tmp_path / "x.yaml", str(tmp_path / "net.pth"), size=asked)
    (tmp_path / "x.yaml").write_text(text)
    cfg = load_config(tmp_path / "x.yaml")
    base = load_config(f"detlite:{config}")
    assert cfg.MODEL.BACKBONE == base.MODEL.BACKBONE and cfg.MODEL.WEIGHTS == str(tmp_path / "net.pth")
    assert cfg.TRANSFORMS.TRAIN[0].NAME == cfg.TRANSFORMS.TEST[0].NAME == base.TRANSFORMS.TEST[0].NAME
    assert cfg.TRANSFORMS.TRAIN[0].SIZE == cfg.TRANSFORMS.TEST[0].SIZE == size
    torch.save({"rpn.head.cls_logits.weight": torch.ones(1)}, tmp_path / "net.pth")
    with pytest.raises(UserError, match="weights of a known detector: torchvision/fasterrcnn_resnet50_fpn_v2, "):
        new_config(tmp_path, "x.yaml", str(tmp_path / "net.pth"))


def test_a_given_size_is_used(tmp_path):
    yolo_with_classes(tmp_path)
    text, notes, rows = new_config(tmp_path, "x.yaml", size=176)
    assert text.count("SIZE: 176, MAX_SIZE: 352") == 2 and rows[0]["choice"] == "given"
    assert "only 4 training images: more of them help most, as do pretrained weights (--weights)" in notes
    counts = re.search(r"Objects to train on: (.*)\.\n", text)[1]
    assert f"few objects to train on: {counts} (--classes chooses the classes to use)" in notes


def test_every_value_of_the_config_has_its_reason(tmp_path):
    yolo_with_classes(tmp_path)
    text, *_ = new_config(tmp_path, "x.yaml")
    lines = textwrap.dedent(text[text.index("MODEL:") :]).splitlines()
    for number, line in enumerate(lines):
        if ": " in line and "#" not in line and not line.strip().startswith(("TEST:", "- {", "TRAIN:", "LOG_PERIOD")):
            assert "#" in lines[number - 1], line
