"""The same objects in the three formats: classes selected, renamed, merged, dropped and ignored."""

import json

import pytest
import torch
from PIL import Image

from detlite.data import Faults, build_dataset, build_transforms
from detlite.data.records import transform_record
from detlite.errors import UserError
from detlite.evaluation.coco import CocoEvaluator
from detlite.evaluation.pascal_voc import PascalVOCEvaluator

NAMES = ["bird", "car", "bus", "dog"]
# One image of 100 x 80 with (class, x, y, width, height).
OBJECTS = [("dog", 10, 10, 20, 20), ("bus", 40, 10, 20, 40), ("car", 70, 10, 20, 10), ("bird", 10, 40, 20, 30)]
VEHICLE = {"vehicle": ["car", "bus"]}


def write_coco(root):
    annotations = []
    for number, (name, *box) in enumerate(OBJECTS, start=1):
        annotations.append({"id": number, "image_id": 1, "category_id": 10 * NAMES.index(name) + 5, "bbox": box})
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}],
        "annotations": annotations,
        "categories": [{"id": 10 * index + 5, "name": name} for index, name in enumerate(NAMES)],
    }
    (root / "a.json").write_text(json.dumps(content))
    return {"NAME": "CocoDataset", "ROOT": str(root), "ANNOTATIONS": "a.json", "IMAGES": "."}


def write_voc(root):
    text = "<size><width>100</width><height>80</height></size>"
    for name, x, y, width, height in OBJECTS:
        corners = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + width}</xmax><ymax>{y + height}</ymax>"
        text += f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>"
    (root / "a.xml").write_text(f"<annotation>{text}</annotation>")
    keys = {"ROOT": str(root), "ANNOTATIONS": ".", "IMAGES": ".", "CLASSES": NAMES}
    return {"NAME": "PascalVOCDataset", **keys}


def write_yolo(root):
    lines = []
    for name, x, y, width, height in OBJECTS:
        box = (x + width / 2) / 100, (y + height / 2) / 80, width / 100, height / 80
        lines.append(" ".join(map(str, (NAMES.index(name), *box))))
    (root / "a.txt").write_text("\n".join(lines))
    return {"NAME": "YoloDataset", "ROOT": str(root), "IMAGES": ["."], "CLASSES": NAMES}


@pytest.fixture(params=[write_coco, write_voc, write_yolo])
def build(request, tmp_path):
    """Return a function that builds the data set with the given classes in one of the formats."""
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    node = request.param(tmp_path)
    key = "KEEP_CLASSES" if node["NAME"] == "YoloDataset" else "CLASSES"

    def build(classes, other="error", report=None):
        return build_dataset(node | {key: classes, "OTHER_CLASSES": other}, report)

    return build


def objects_of(dataset):
    """Return [(name, x1)] of the objects that train."""
    _, target = dataset[0]
    names = [dataset.classes[label - 1] for label in target["labels"].tolist()]
    return list(zip(names, target["boxes"][:, 0].tolist(), strict=True))


def test_classes_are_ordered_renamed_and_merged(build, caplog):
    with caplog.at_level("INFO"):
        dataset = build([VEHICLE, {"hound": ["dog"]}, "bird"])
    assert dataset.classes == ["vehicle", "hound", "bird"]
    assert objects_of(dataset) == [("hound", 10), ("vehicle", 40), ("vehicle", 70), ("bird", 10)]
    assert len(dataset.coco()["annotations"]) == 4 and "ignored" not in dataset[0][1]
    for change in ("car -> vehicle (1 objects)", "bus -> vehicle (1 objects)", "dog -> hound (1 objects)"):
        assert change in caplog.text
    assert "bird ->" not in caplog.text


def test_an_object_of_another_class_is_an_error_by_default(build):
    message = r"of the class 'bird', not in (KEEP_)?CLASSES.*; 1 of 4 objects.*OTHER_CLASSES to drop or ignore"
    with pytest.raises(UserError, match=message):
        build(["dog", VEHICLE])
    faults = Faults()
    assert objects_of(build(["dog", VEHICLE], report=faults)) == [("dog", 10), ("vehicle", 40), ("vehicle", 70)]
    assert faults["annotations of unknown categories"].count == 1


def test_dropped_objects_are_background(build, caplog):
    with caplog.at_level("INFO"):
        dataset = build(["dog", "bus"], "drop")
    assert "bird -> dropped (1 objects)" in caplog.text and "car -> dropped (1 objects)" in caplog.text
    assert objects_of(dataset) == [("dog", 10), ("bus", 40)]
    assert len(dataset.coco()["annotations"]) == 2 and "ignored" not in dataset[0][1]


def test_ignored_objects_are_regions_that_follow_the_transforms(build):
    dataset = build(["dog", "bus"], "ignore")
    image, target = dataset[0]
    assert target["ignored"].tolist() == [[70, 10, 90, 20], [10, 40, 30, 70]]
    nodes = [{"NAME": "RandomHorizontalFlip", "P": 1}, {"NAME": "ResizeShortSide", "SIZE": 40, "MAX_SIZE": 100}]
    _, target = transform_record(build_transforms(nodes), image, target)
    assert target["boxes"].tolist() == [[35, 5, 45, 15], [20, 5, 30, 25]] and target["labels"].tolist() == [1, 2]
    assert target["ignored"].tolist() == [[5, 5, 15, 10], [35, 20, 45, 35]]


def test_with_a_single_class_each_ignored_object_is_one_crowd_object(build):
    rows = build(["dog"], "ignore").coco()["annotations"]
    assert [row["iscrowd"] for row in rows].count(1) == 3 and len(rows) == 4
    assert len({row["category_id"] for row in rows}) == 1


def test_an_ignored_object_under_a_detection_changes_no_score(build):
    dogs = {"boxes": [[10, 10, 30, 30.0]], "scores": [0.5], "labels": [1]}
    others = {"boxes": [[70, 10, 90, 20.0], [10, 40, 30, 70], [12, 42, 28, 68]], "scores": [0.9, 0.8, 0.7]}
    both = {key: torch.tensor(dogs[key] + {**others, "labels": [1, 1, 1]}[key]) for key in dogs}
    scores = []
    for other, found in (("ignore", both), ("drop", {key: torch.tensor(value) for key, value in dogs.items()})):
        dataset = build(["dog", "bus"], other)
        for evaluator in (CocoEvaluator(dataset), PascalVOCEvaluator(dataset)):
            evaluator.process([{"image_id": dataset[0][1]["image_id"]}], [found])
            scores.append(evaluator.evaluate())
    for result in scores[::2]:
        result["bbox"].pop("AR1")  # of the best detection, which here is on an ignored object
    assert scores[:2] == scores[2:]
    assert scores[0]["bbox"]["AP"] == pytest.approx(0.5) and scores[1]["voc"]["AP"] == pytest.approx(0.5)

    # Dropped, the same detections count as wrong: the dog is the fourth of four, and its AP is 1/4.
    evaluator = PascalVOCEvaluator(build(["dog", "bus"], "drop"))
    evaluator.process([{"image_id": 1}], [both])
    assert evaluator.evaluate()["voc"]["per_class"]["dog"] == pytest.approx(0.25)


def test_a_misspelled_class_is_reported_with_the_nearest(build, caplog):
    try:
        build(["dogg", "bus"], "drop")
    except UserError as error:
        message = str(error)
    else:  # XML files do not list their classes
        message = caplog.text
    assert "has no class 'dogg'; did you mean dog?" in message


@pytest.mark.parametrize("classes", [["dog", {"cat": ["dog"]}], ["dog", {"dog": ["bus"]}], [{"a": []}], [{}]])
def test_impossible_entries_are_refused(build, classes):
    with pytest.raises(UserError, match="CLASSES: expected (different names, got 'dog' twice|a name or one merge)"):
        build(classes)
