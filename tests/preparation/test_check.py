"""The check before a training finds every injected fault, and nothing in good data."""

import itertools
import json
import logging
import re
import shutil

import pytest
import torch
from PIL import Image

from detlite.cli import main
from detlite.config import load_config, override
from detlite.config.yaml import format_yaml
from detlite.data import build_dataset
from detlite.data.transforms import RandomHorizontalFlip
from detlite.errors import UserError
from detlite.modeling import precision
from detlite.modeling.backbone.vgg import VGG
from detlite.preparation import check_training
from detlite.preparation.anchor_recall import log_recall
from detlite.preparation.check import check
from detlite.preparation.check_data import check_datasets
from detlite.registry import EVALUATORS

WIDTH, HEIGHT = 64, 48


@pytest.fixture(autouse=True)
def closed_log():
    yield
    for handler in list(logging.getLogger("detlite").handlers):
        logging.getLogger("detlite").removeHandler(handler)
        handler.close()


def save_noise(path, width=WIDTH, height=HEIGHT, **options):
    Image.effect_noise((width, height), 60).save(path, **options)


def coco_content(names):
    """Return a COCO dict with two objects per image, of two classes."""
    return {
        "images": [
            {"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names, start=1)
        ],
        "annotations": [
            {"id": 10 * i + k, "image_id": i, "category_id": k, "bbox": [5 + 25 * (k - 1), 10, 20, 30]}
            for i in range(1, len(names) + 1)
            for k in (1, 2)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


@pytest.fixture
def coco(tmp_path, tiny_opts):
    """A function: what changes the training set (its content, its folder) -> a config; there is a clean test set."""

    def config(change=lambda content, folder: None, node=(), **changes):
        nodes = []
        for split, count in (("train", 4), ("test", 2)):
            folder = tmp_path / split
            folder.mkdir()
            content = coco_content([f"{split}{i}.jpg" for i in range(count)])
            for row in content["images"]:
                save_noise(folder / row["file_name"])
            if split == "train":
                content = change(content, folder) or content
            (tmp_path / f"{split}.json").write_text(content if isinstance(content, str) else json.dumps(content))
            nodes.append({"NAME": "CocoDataset", "ANNOTATIONS": str(tmp_path / f"{split}.json"), "IMAGES": str(folder)})
        nodes[0] |= dict(node)
        return load_config(opts=tiny_opts(DATASETS__TRAIN=nodes[:1], DATASETS__TEST=nodes[1], **changes))

    return config


def found(cfg):
    """{data set: {kind: (count, is_error, first example)}}, of data sets with faults."""
    faults = {
        data.name: {kind: (f.count, f.is_error, f.examples[0]) for kind, f in data.faults.items()}
        for data in itertools.chain(*check_datasets(cfg))
    }
    return {name: kinds for name, kinds in faults.items() if kinds}


def annotation(**values):
    def change(content, folder):
        content["annotations"][0].update(values)

    return change


def image(**values):
    def change(content, folder):
        content["images"][1].update(values)

    return change


def again(section, **values):
    def change(content, folder):
        content[section].append({**content[section][0], **values})

    return change


def rotate(content, folder):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down: no size gives it away
    save_noise(folder / "train1.jpg", exif=exif)


def truncate(content, folder):
    data = (folder / "train1.jpg").read_bytes()
    (folder / "train1.jpg").write_bytes(data[: len(data) // 2])


def no_dogs(content, folder):
    content["annotations"] = [row for row in content["annotations"] if row["category_id"] == 1]


def no_objects_in_one(content, folder):
    content["annotations"] = content["annotations"][2:]


FAULTS = {  # what is changed, the kind that is found, how many, whether it is an error, what the example says
    "no width": (annotation(bbox=[5, 6, 0, 8]), "boxes without area", 1, True, r"annotation 11 .*[5, 6, 0, 8]"),
    "inverted": (annotation(bbox=[5, 6, 7, -8]), "inverted boxes", 1, True, "[5, 6, 7, -8]"),
    "outside": (annotation(bbox=[70, 6, 7, 8]), "boxes outside their image", 1, True, "width 64 and height 48"),
    "NaN": (annotation(bbox=[float("nan"), 6, 7, 8]), "boxes that are not finite", 1, True, "nan"),
    "sticks out": (annotation(bbox=[60, 6, 7, 8]), "boxes that stick out", 1, False, "[60, 6, 7, 8]"),
    "one pixel": (annotation(bbox=[5, 6, 1, 8]), "boxes of one pixel", 1, False, "[5, 6, 1, 8]"),
    "three numbers": (
        annotation(bbox=[5, 6, 7]),
        "annotations with a wrong bbox",
        1,
        True,
        "annotation 11: bbox must be",
    ),
    "text": (annotation(image_id="1"), "annotations with a wrong image_id", 1, True, "annotation 11: image_id"),
    "unknown category": (annotation(category_id=3), "annotations of unknown categories", 1, True, "no category 3"),
    "unknown image": (annotation(image_id=9), "annotations of unknown images", 1, True, "there is no image 9"),
    "annotation id twice": (
        annotation(id=12),
        "duplicate annotation ids",
        1,
        False,
        "annotation id 12 occurs 2 times",
    ),
    "object twice": (again("annotations", id=99), "repeated objects", 1, False, "annotation 99 of image 1"),
    "image id twice": (again("images"), "duplicate image ids", 1, True, "image id 1 occurs 2 times"),
    "category id twice": (again("categories"), "duplicate category ids", 1, True, "category id 1 occurs 2 times"),
    "no name": (image(file_name=None), "images with a wrong file_name", 1, True, "image 2: file_name must be a path"),
    "no size": (image(height=0), "images with a wrong height", 1, True, "image 2: height must be"),
    "missing": (image(file_name="gone.jpg"), "missing images", 1, True, "gone.jpg: no such image file"),
    "one file for two": (
        image(file_name="train2.jpg"),
        "duplicate images",
        1,
        False,
        "train2.jpg: same content as",
    ),
    "another size": (image(width=80, height=64), "images of another size than annotated", 1, True, "says height 64"),
    "truncated": (truncate, "unreadable images", 1, True, "train1.jpg: cannot be read"),
    "EXIF rotation": (rotate, "images with EXIF rotation", 1, False, "train1.jpg: EXIF orientation 3"),
    "class without objects": (no_dogs, "classes without an object in DATASETS.TRAIN", 1, False, "dog"),
    "image without objects": (no_objects_in_one, "images without objects", 1, False, "train0.jpg"),
    "broken JSON": (lambda *_: '{"images": [', "data sets that cannot be read", 1, True, "train.json: not a JSON file"),
    "not COCO": (lambda *_: "[1]", "data sets that cannot be read", 1, True, "train.json: not COCO's format"),
}


def test_nothing_is_found_where_nothing_is_wrong(coco):
    assert found(coco()) == {}


@pytest.mark.parametrize(("change", "kind", "count", "is_error", "example"), FAULTS.values(), ids=FAULTS)
def test_each_fault_is_found_and_no_other(coco, change, kind, count, is_error, example):
    (faults,) = found(coco(change)).values()
    assert {name: values[:2] for name, values in faults.items()} == {kind: (count, is_error)}
    assert "train" in faults[kind][2] or kind.startswith("classes")
    for part in example.split(" .*"):
        assert part in faults[kind][2]


def test_repeated_objects_that_are_dropped_are_no_fault(coco):
    assert found(coco(again("annotations", id=99), {"DUPLICATES": "drop"})) == {}


def test_all_faults_of_one_file_are_found_at_once(coco):
    def spoil(content, folder):
        first, second, third, *_ = content["annotations"]
        first["bbox"], second["bbox"], third["category_id"] = [5, 6, 0, 8], [60, 6, 7, 8], 3
        truncate(content, folder)

    (faults,) = found(coco(spoil)).values()
    expected = ("boxes without area", "boxes that stick out", "annotations of unknown categories", "unreadable images")
    assert set(faults) == set(expected)


def test_what_is_skipped_is_a_warning(coco):
    def spoil(content, folder):
        content["annotations"][0]["bbox"] = [5, 6, 7, -8]
        truncate(content, folder)

    cfg = coco(spoil, {"BAD_BOXES": "skip"}, DATASETS__BAD_IMAGE="skip")
    (faults,) = found(cfg).values()
    assert {kind: values[:2] for kind, values in faults.items()} == {
        "inverted boxes": (1, False),
        "unreadable images": (1, False),
    }


def test_no_key_allows_a_transform_that_fails(coco, monkeypatch):
    def refuse(*_):
        raise UserError("the image is too small")

    monkeypatch.setattr(RandomHorizontalFlip, "forward", refuse, raising=False)
    ((train,), _) = check_datasets(
        coco(TRANSFORMS__TRAIN=[{"NAME": "RandomHorizontalFlip"}], DATASETS__BAD_IMAGE="skip")
    )
    fault = train.faults["images that the transforms refuse"]
    assert (fault.count, fault.is_error, fault.remedy) == (4, True, "")


def test_of_tiles_each_file_is_checked_once(coco):
    """An image of 64 x 48 px in tiles of 40 px has two columns and two rows."""

    def change(content, folder):
        rotate(content, folder)
        shutil.copy(folder / "train2.jpg", folder / "train3.jpg")

    cfg = coco(change)
    tiled = {"NAME": "TiledDataset", "SIZE": 40, "OVERLAP": 0, "DATASET": cfg.DATASETS.TRAIN[0].plain()}
    faults = found(override(cfg, {"DATASETS.TRAIN": [tiled]}, "test"))["DATASETS.TRAIN.0"]
    assert {kind: count for kind, (count, _, _) in faults.items()} == {
        "images with EXIF rotation": 1,
        "duplicate images": 1,
    }
    _, _, text = faults["duplicate images"]
    assert "train3.jpg, tile number 13: same content as" in text and text.endswith("train2.jpg, tile number 9")


def test_a_test_image_that_is_trained_on_is_found_under_whatever_name(coco, tmp_path):
    cfg = coco()
    shutil.copy(tmp_path / "train" / "train0.jpg", tmp_path / "test" / "test1.jpg")
    (faults,) = found(cfg).values()
    count, is_error, example = faults["images that are also in DATASETS.TRAIN"]
    assert (count, is_error) == (1, False) and "test1.jpg" in example and "train0.jpg" in example


def test_workers_find_the_same(coco):
    (faults,) = found(coco(truncate, DATASETS__NUM_WORKERS=2)).values()
    assert set(faults) == {"unreadable images"}


def voc_object(name, *corners):
    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"


def voc_document(*objects, width=WIDTH):
    size = f"<size><width>{width}</width><height>{HEIGHT}</height></size>"
    return f"<annotation>{size}{''.join(objects)}</annotation>"


@pytest.fixture
def voc(tmp_path, tiny_opts):
    """A function: {file: text} that replace some of a clean set's XML files, lines of its list -> a config."""

    def config(files=(), listed=("a", "b", "c")):
        for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (tmp_path / part).mkdir(parents=True)
        clean = voc_document(voc_object("cat", 1, 1, 20, 30), voc_object("dog", 30, 1, 64, 48))
        for stem in "abcd":
            (tmp_path / f"Annotations/{stem}.xml").write_text(dict(files).get(stem, clean))
            save_noise(tmp_path / f"JPEGImages/{stem}.jpg")
        (tmp_path / "ImageSets/Main/train.txt").write_text("\n".join(listed))
        (tmp_path / "ImageSets/Main/test.txt").write_text("d")
        node = {"NAME": "PascalVOCDataset", "ROOT": str(tmp_path), "CLASSES": ["cat", "dog"]}
        train, test = ({**node, "IMAGE_SETS": [name]} for name in ("train", "test"))
        return load_config(opts=tiny_opts(DATASETS__TRAIN=[train], DATASETS__TEST=test))

    return config


VOC_FAULTS = {
    "inverted": ({"b": voc_document(voc_object("cat", 20, 1, 9, 5))}, "inverted boxes", "b.xml: object 1, 'cat'"),
    "outside": ({"b": voc_document(voc_object("cat", 70, 1, 75, 5))}, "boxes outside their image", "b.xml: object 1"),
    "no number": ({"b": voc_document(voc_object("cat", "", 1, 9, 5))}, "boxes that are not finite", "xmin missing"),
    "unknown class": ({"b": voc_document(voc_object("cta", 1, 1, 9, 5), voc_object("cat", 1, 1, 9, 5))},
                      "annotations of unknown categories", "of the class 'cta', not in CLASSES; did you mean cat?"),
    "broken XML": ({"b": "<annotation><object>"}, "unreadable annotation files", "b.xml: not an XML file"),
    "another size": ({"b": voc_document(voc_object("cat", 1, 1, 9, 5), width=50)},
                     "images of another size than annotated", "b.jpg"),
}  # fmt: skip


def test_nothing_is_found_in_clean_voc_folders(voc):
    assert found(voc()) == {}


@pytest.mark.parametrize(("files", "kind", "example"), VOC_FAULTS.values(), ids=VOC_FAULTS)
def test_each_fault_in_voc_folders_is_found_and_no_other(voc, files, kind, example):
    (faults,) = found(voc(files)).values()
    faults.pop("images without objects", None)  # b may have lost its only one
    assert {name: values[:2] for name, values in faults.items()} == {kind: (1, True)}
    assert example in faults[kind][2]


def test_images_that_a_list_has_twice_or_that_are_missing_are_found(voc):
    (faults,) = found(voc(listed="abcbe")).values()
    assert {name: values[:2] for name, values in faults.items()} == {
        "images listed twice": (1, True),
        "missing images": (1, True),
    }


def lines(cfg, folder):
    """{name: (status, text)} of check.json, whether the check passed or not."""
    try:
        check(cfg)
    except UserError as error:
        assert "found an error" in str(error)
    content = json.loads((folder / "check.json").read_text())
    return {line["name"]: (line["status"], line["text"]) for line in content["lines"]}


def test_anchors_are_judged_as_the_log_of_a_training_judges_them(tiny_opts, tmp_path, capsys):
    cfg = load_config(opts=tiny_opts(TRANSFORMS__TRAIN=[{"NAME": "Augmentation", "PRESET": "small"}]))
    text = lines(cfg, tmp_path / "output")["anchors"][1]
    log_recall(cfg, build_dataset(cfg.DATASETS.TRAIN[0]))
    share, number = re.match(r"(\S+)% of (\S+) objects", text).groups()
    assert re.search(rf"all +{number} +{float(share) / 100:.3f}", capsys.readouterr().out)


def test_anchors_are_not_judged_where_sizes_are_unknown_and_errors_are_reported(tiny_opts, tmp_path, monkeypatch):
    plain = load_config(opts=tiny_opts())
    other = [{"NAME": "RandomZoomOut"}, *plain.TRANSFORMS.TRAIN]
    said = lines(load_config(opts=tiny_opts(TRANSFORMS__TRAIN=other)), tmp_path / "output")
    assert said["anchors"][0] == "warning" and said["anchors"][1].startswith("not judged: ")

    def fail(cfg, datasets):
        raise UserError("coco() is broken")

    monkeypatch.setattr(check_training, "judge_training", fail)
    said = lines(plain, tmp_path / "output")
    assert said["anchors"] == ("warning", "coco() is broken") and said["first steps"][0] == "pass"


def test_a_good_config_passes_every_line(tiny_opts, tmp_path):
    fine = {"MODEL__BACKBONE__LEVELS": ["conv3"], "MODEL__RPN__ANCHOR_GENERATOR__SIZES": [8, 11, 16, 22, 32]}
    said = lines(load_config(opts=tiny_opts(**fine)), tmp_path / "output")
    assert {status for status, _ in said.values()} == {"pass"}
    assert list(said) == [
        "config",
        "DATASETS.TRAIN.0",
        "DATASETS.TEST",
        "classes",
        "DATASETS.TEST, ground truth as predictions",
        "model",
        "precision",
        "anchors",
        "first steps",
        "memory and disk space",
    ]
    assert said["DATASETS.TEST, ground truth as predictions"][1] == "bbox AP 1.000"
    assert re.search(r"; all 6 steps take \d\d:\d\d at this rate", said["first steps"][1])
    gigabytes = r"(\d+\.\d\d) GB"
    text = f"memory: {gigabytes} of {gigabytes} used; disk space: {gigabytes} for checkpoints, {gigabytes} free"
    sizes = [float(size) for size in re.fullmatch(text, said["memory and disk space"][1]).groups()]
    assert 0 < sizes[0] < sizes[1] and sizes[3] == pytest.approx(shutil.disk_usage(tmp_path).free / 2**30, rel=0.1)
    assert "reach 8 of 8" in said["first steps"][1]  # VGG11 up to conv3: four convolutions, each with a bias
    assert re.match(r"100\.0% of \d+ objects have an anchor with an IoU of 0.5 or more", said["anchors"][1])


def detach(monkeypatch):
    forward = VGG.forward
    monkeypatch.setattr(VGG, "forward", lambda self, x: {k: v.detach() for k, v in forward(self, x).items()})


def fill_disk(monkeypatch):
    monkeypatch.setattr(check_training.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))


def fill_memory(monkeypatch):
    monkeypatch.setattr(check_training.os, "sysconf", lambda name: 100)


def evaluate_to_zero(monkeypatch):
    def evaluate(self):
        return 0

    monkeypatch.setattr(EVALUATORS.get("CocoEvaluator"), "evaluate", evaluate)


def refuse_memory(monkeypatch):
    def forward(self, x):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(VGG, "forward", forward)


OTHER = {"NAME": "ShapesDataset", "IMAGE_SIZE": 64, "NUM_IMAGES": 3}
PREFLIGHT = {  # config changes, what is broken, the line that tells, its status, the remedy in it
    "no weights file": ({"MODEL__WEIGHTS": "gone.pth"}, None, "model", "error", "gone.pth"),
    "frozen at random": ({"MODEL__BACKBONE__FREEZE_AT": 2}, None, "model", "error", "FREEZE_AT 0"),
    "a part's mistake": ({"MODEL__BACKBONE__WIDTH": -1}, None, "model", "error", "MODEL.BACKBONE"),
    "huge anchors": ({"MODEL__RPN__ANCHOR_GENERATOR__SIZES": [512]}, None, "anchors", "warning", "detlite anchors"),
    "infinite loss": ({"MODEL__PIXEL_STD": [1e-38] * 3}, None, "first steps", "error", "not finite"),
    "detached": ({}, detach, "first steps", "error", "no gradient reaches the backbone"),
    "memory refused": ({}, refuse_memory, "first steps", "error", "SOLVER.BATCH_SIZE 2"),
    "memory nearly full": ({}, fill_memory, "memory and disk space", "error", "lower SOLVER.BATCH_SIZE"),
    "disk full": ({}, fill_disk, "memory and disk space", "error", "set OUTPUT_DIR"),
    "few detections counted": (
        {"EVALUATION__EVALUATORS": [{"NAME": "CocoEvaluator", "MAX_DETECTIONS": [1]}]},
        None,
        "DATASETS.TEST, ground truth as predictions",
        "error",
        "MAX_DETECTIONS",
    ),
    "results of no evaluator": (
        {},
        evaluate_to_zero,
        "DATASETS.TEST, ground truth as predictions",
        "error",
        "returned 0; expected",
    ),
    "other classes": ({"MODEL__CLASSES": ["circle", "cube", "triangle"]}, None, "classes", "error", "cube"),
}


@pytest.mark.parametrize(("changes", "breaks", "name", "status", "remedy"), PREFLIGHT.values(), ids=PREFLIGHT)
def test_what_would_stop_or_spoil_a_training_is_told_with_the_remedy(
    tiny_opts, tmp_path, monkeypatch, changes, breaks, name, status, remedy
):
    cfg = load_config(opts=tiny_opts(**changes))
    if breaks:
        breaks(monkeypatch)
    said = lines(cfg, tmp_path / "output")
    assert said[name][0] == status and remedy in said[name][1]
    # The tiny detector's anchors are poor for its objects.
    others = [line for line, (other, _) in said.items() if other != "pass" and line not in (name, "anchors")]
    assert others in ([], ["first steps"])  # which needs a model


def test_a_precision_that_is_slower_than_fp32_is_a_warning(tiny_opts, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "has_cpu_instructions", lambda name: False)
    said = lines(load_config(opts=tiny_opts(MODEL__PRECISION="bf16")), tmp_path / "output")
    assert said["precision"][0] == "warning" and "slower than fp32" in said["precision"][1]
    assert said["first steps"][0] == "pass"


def test_weights_are_said_to_match_by_their_share(tiny_opts, tmp_path):
    layer = {"features.0.weight": torch.zeros(4, 3, 3, 3), "features.0.bias": torch.zeros(4)}
    torch.save(layer, tmp_path / "w.pth")
    cfg = load_config(opts=tiny_opts(MODEL__WEIGHTS=str(tmp_path / "w.pth")))
    said = lines(cfg, tmp_path / "output")
    assert said["model"][0] == "error" and "MIN_WEIGHTS_MATCH" in said["model"][1]
    assert "torchvision's VGG" in said["model"][1]


def test_the_exit_status_and_the_counts_of_classes(coco, tmp_path, capsys):
    plain = coco(FAULTS["no width"][0]).plain()
    del plain["MODEL"]["CLASSES"]
    (tmp_path / "own.yaml").write_text(format_yaml(plain))
    arguments = ["check", "--config-file", str(tmp_path / "own.yaml"), "--data-only"]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "1 boxes without area (fix the file, or set BAD_BOXES to skip" in captured.out
    assert "error: 1 of 5 checks found an error" in captured.err
    assert main([*arguments, "DATASETS.TRAIN.0.BAD_BOXES", "skip"]) == 0
    content = json.loads((tmp_path / "output" / "check.json").read_text())
    assert content["datasets"]["DATASETS.TRAIN.0"]["objects"] == {"cat": 3, "dog": 4}
    assert content["datasets"]["DATASETS.TRAIN.0"]["faults"][0]["count"] == 1
    assert "4 images; objects after the transforms: cat 3, dog 4" in capsys.readouterr().out


def test_an_output_folder_that_cannot_be_written_is_named(tiny_opts, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="OUTPUT_DIR: .*taken.*: cannot be written: "):
        check(load_config(opts=tiny_opts(OUTPUT_DIR=str(tmp_path / "taken" / "x"))), data_only=True)
