"""VOC folders: valid files, unusual files, and faults."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from detlite.config import load_config
from detlite.data import CocoDataset, PascalVOCDataset, build_train_datasets
from detlite.data.datasets.pascal_voc_xml import read_annotation
from detlite.errors import UserError
from detlite.registry import DATASETS


def box(xmin, ymin, xmax, ymax):
    return f"<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>"


def thing(name, *corners, more=""):
    return f"<object><name>{name}</name>{more}{box(*corners)}</object>"


def document(*objects, size="<size><width>60</width><height>40</height><depth>3</depth></size>"):
    return f"<annotation><filename>wrong.jpg</filename>{size}{''.join(objects)}</annotation>"


@pytest.fixture
def folder(tmp_path):
    """Return a function that writes a VOC folder, {stem: XML}, with images of 60 x 40 and the image set "train"."""

    def write(files, name="", suffix=".png", image_set="train"):
        root = tmp_path / name
        for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / part).mkdir(parents=True, exist_ok=True)
        for stem, content in files.items():
            content = content if isinstance(content, bytes) else content.encode()
            (root / "Annotations" / f"{stem}.xml").write_bytes(content)
            Image.new("RGB", (60, 40)).save(root / "JPEGImages" / f"{stem}{suffix}")
        (root / f"ImageSets/Main/{image_set}.txt").write_text("".join(f"{stem}\n" for stem in files))
        return tmp_path

    return write


def build(root, image_sets=("train",), **keys):
    node = {"NAME": "PascalVOCDataset", "ROOT": str(root), "IMAGE_SETS": list(image_sets), **keys}
    return DATASETS.build(node)


TWO = {
    "b": document(
        thing("dog", 11, 6, 30, 25),
        thing("cat", 1, 1, 60, 40, more="<difficult>1</difficult>"),
        thing("cat", 2, 3, 7, 9, more="<difficult>0</difficult>"),
    ),
    "a": document(),
}


def test_one_is_subtracted_from_xmin_and_ymin_only(folder):
    image, target = build(folder(TWO))[0]
    assert image.shape == (3, 40, 60) and image.dtype == torch.uint8
    assert target["boxes"].tolist() == [[10, 5, 30, 25], [1, 2, 7, 9]]
    assert target["boxes"].dtype == torch.float32 and target["boxes"].canvas_size == (40, 60)


def test_labels_are_voc_s_classes_from_one_and_ids_are_positions_in_the_list(folder):
    dataset = build(folder(TWO))
    assert len(dataset) == 2 and dataset.sizes.tolist() == [[40, 60], [40, 60]]
    assert len(dataset.classes) == 20 and dataset.category_ids == list(range(1, 21))
    labels = dataset[0][1]["labels"]
    assert [dataset.classes[label - 1] for label in labels] == ["dog", "cat"] and labels.dtype == torch.int64
    assert [target["image_id"] for _, target in dataset] == [1, 2]
    assert dataset[1][1]["boxes"].shape == (0, 4) and dataset[1][1]["labels"].shape == (0,)


def test_difficult_objects_are_trained_on_when_asked_and_are_crowd_in_evaluation_either_way(folder):
    root = folder(TWO)
    for asked, count in ((False, 2), (True, 3)):
        dataset = build(root, USE_DIFFICULT=asked)
        assert len(dataset[0][1]["labels"]) == count
        annotations = dataset.coco()["annotations"]
        assert [(a["category_id"], a["bbox"], a["iscrowd"]) for a in annotations] == [
            (12, [10, 5, 20, 20], 0),
            (8, [0, 0, 60, 40], 1),
            (8, [1, 2, 6, 7], 0),
        ]


def test_ground_truth_names_images_by_their_path_below_the_root_and_is_ready_for_json(folder):
    truth = build(folder(TWO, name="VOC2007"), ["VOC2007/train"]).coco()
    assert [image["file_name"] for image in truth["images"]] == [
        "VOC2007/JPEGImages/b.png",
        "VOC2007/JPEGImages/a.png",
    ]
    assert [image["id"] for image in truth["images"]] == [1, 2]
    assert json.loads(json.dumps(truth)) == truth


def test_image_sets_of_several_years_are_one_data_set(folder):
    folder({"a": document(thing("dog", 1, 1, 5, 5))}, name="VOC2007", image_set="trainval")
    root = folder({"a": document(thing("cat", 3, 3, 9, 9))}, name="VOC2012", image_set="trainval")
    dataset = build(root, ["VOC2007/trainval", "VOC2012/trainval"])
    assert [target["boxes"].tolist() for _, target in dataset] == [[[0, 0, 5, 5]], [[2, 2, 9, 9]]]
    assert [target["image_id"] for _, target in dataset] == [1, 2]


def test_images_without_objects_can_be_left_out_and_keep_the_others_ids(folder):
    files = {
        "a": document(),
        "b": document(thing("cat", 1, 1, 60, 40, more="<difficult>1</difficult>")),
        "c": document(thing("dog", 2, 2, 9, 9)),
    }
    dataset = build(folder(files), KEEP_EMPTY=False)
    assert [(target["image_id"], target["boxes"].tolist()) for _, target in dataset] == [(3, [[1, 1, 9, 9]])]
    assert [a["image_id"] for a in dataset.coco()["annotations"]] == [3]
    dataset = build(folder(files), KEEP_EMPTY=False, USE_DIFFICULT=True)
    assert [target["image_id"] for _, target in dataset] == [2, 3]


def test_other_classes_have_labels_in_their_own_order(folder):
    root = folder({"a": document(thing("WBC", 1, 1, 5, 5), thing("RBC", 1, 1, 5, 5))})
    dataset = build(root, CLASSES=["RBC", "WBC", "Platelets"])
    assert dataset[0][1]["labels"].tolist() == [2, 1] and dataset.classes == ["RBC", "WBC", "Platelets"]


def test_an_unknown_class_is_named_with_its_file_and_the_nearest(folder):
    root = folder({"a": document(), "b": document(thing("Dogg", 1, 1, 5, 5))})
    with pytest.raises(
        UserError, match=r"b\.xml: object 1.* of the class 'Dogg', not in CLASSES; did you mean dog\?.*OTHER_CLASSES"
    ):
        build(root)


def test_voc_and_coco_formats_of_the_same_boxes_differ_by_the_documented_one(folder, tmp_path):
    corners = {"a": [(1, 1, 30, 20), (7, 9, 60, 40)], "b": [(13, 2, 25, 35)]}
    root = folder({stem: document(*(thing("dog", *c) for c in boxes)) for stem, boxes in corners.items()})
    coco = {
        "images": [{"id": n, "file_name": f"{s}.png", "width": 60, "height": 40} for n, s in enumerate(corners)],
        "annotations": [
            {"id": 10 * n + m, "image_id": n, "category_id": 12, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for n, boxes in enumerate(corners.values())
            for m, (x1, y1, x2, y2) in enumerate(boxes)
        ],
        "categories": [{"id": 12, "name": "dog"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    as_coco = CocoDataset(annotations=str(tmp_path / "coco.json"), images=str(root / "JPEGImages"))
    one_based, exact = build(root, CLASSES=["dog"]), build(root, CLASSES=["dog"], ONE_BASED=False)
    for n in range(2):
        image, target = as_coco[n]
        assert torch.equal(target["boxes"], exact[n][1]["boxes"])
        assert torch.equal(target["boxes"] - torch.tensor([1, 1, 0, 0]), one_based[n][1]["boxes"])
        assert torch.equal(target["labels"], exact[n][1]["labels"]) and torch.equal(image, exact[n][0])
    strip = [[a["bbox"] for a in d.coco()["annotations"]] for d in (as_coco, exact, one_based)]
    assert strip[0] == strip[1] == [[x + 1, y + 1, w - 1, h - 1] for x, y, w, h in strip[2]]


def test_fractions_blanks_and_missing_tags_are_read(folder):
    files = {
        "a": "\n\n" + document("<object><name>\n  dog </name><bndbox><ymax> 20.5\n</ymax><xmin>1.25</xmin>"
        "<ymin>3.75</ymin><xmax>3e1</xmax></bndbox><part><name>head</name>" + box(1, 1, 2, 2) + "</part></object>"),
        "b": document(thing("cat", 1, 1, 5, 5, more="<difficult/><truncated></truncated><pose/>"), "<object/>",
                      "<object>\n</object>"),
        "c": document(thing("cat", 1, 1, 5, 5, more="<difficult> Unspecified</difficult>")),
        "d": document(thing("cat", 1, 1, 5, 5, more="<difficult> true </difficult>")),
    }  # fmt: skip
    dataset = build(folder(files))
    boxes = [target["boxes"].tolist() for _, target in dataset]
    assert boxes == [[[0.25, 2.75, 30, 20.5]], [[0, 0, 5, 5]], [[0, 0, 5, 5]], []]


@pytest.mark.parametrize(
    "size",
    [
        "",
        "<size/>",
        "<size><width></width><height></height></size>",
        "<size><width>0</width><height>0</height></size>",
        "<size><width>60</width></size>",
        "<size><width>?</width><height>40</height></size>",
    ],
)
def test_a_missing_size_is_read_from_the_image(folder, size):
    assert build(folder({"a": document(size=size)})).sizes.tolist() == [[40, 60]]


def test_the_size_of_an_image_lying_on_its_side_is_that_of_the_upright_image(folder):
    root = folder({"a": document(thing("dog", 1, 1, 40, 60), size="")}, suffix=".jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(root / "JPEGImages/a.jpg", exif=exif)
    dataset = build(root)
    assert dataset.sizes.tolist() == [[60, 40]]
    assert dataset[0][0].shape == (3, 60, 40) and dataset[0][1]["boxes"].tolist() == [[0, 0, 40, 60]]


def test_boxes_that_stick_out_are_clipped_but_scored_as_written(folder):
    dataset = build(folder({"a": document(thing("dog", 0, -3, 70, 41))}))
    assert dataset[0][1]["boxes"].tolist() == [[0, 0, 60, 40]]
    assert dataset.coco()["annotations"][0]["bbox"] == [-1, -4, 71, 45]


def test_a_box_of_one_pixel_is_a_box_where_pixels_count_from_one_only(folder):
    root = folder({"a": document(thing("dog", 5, 6, 5, 6))})
    assert build(root)[0][1]["boxes"].tolist() == [[4, 5, 5, 6]]
    with pytest.raises(UserError, match="no area"):
        build(root, ONE_BASED=False)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (thing("dog", 20, 6, 10, 25), "xmin 20, ymin 6, xmax 10, ymax 25"),
        (thing("dog", 61, 6, 70, 25), "xmin 61"),
        (thing("dog", "nan", 6, 10, 25), "xmin nan"),
        (thing("dog", 2, 6, "inf", 25), "xmax inf"),
        (thing("dog", 2, "", 10, 25), "ymin missing"),
        (thing("dog", 2, "two", 10, 25), "ymin two"),
        ("<object><name>dog</name></object>", "xmin missing, ymin missing"),
        ("<object><name>dog</name><bndbox/></object>", "xmin missing"),
    ],
)
def test_a_bad_box_is_named_with_its_file_or_left_out(folder, caplog, wrong, words):
    root = folder({"a": document(), "b": document(thing("cat", 1, 1, 5, 5), wrong)})
    with pytest.raises(UserError, match=r"b\.xml.*BAD_BOXES") as error:
        build(root)
    assert words in str(error.value) and "1 of 2 boxes" in str(error.value)
    dataset = build(root, BAD_BOXES="skip")
    assert dataset[1][1]["boxes"].tolist() == [[0, 0, 5, 5]]
    assert len(dataset.coco()["annotations"]) == 1
    assert words in caplog.text and "left out" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation><object></annotation>", "not an XML file.*mismatched tag: line 1"),
        ("", "not an XML file"),
        ("<annotation>\n<object>&nbsp;</object></annotation>", "not an XML file.*undefined entity: line 2"),
        ("<html></html>", "begins with <html>, not <annotation>"),
        (document(f"<object>{box(1, 1, 5, 5)}</object>"), "object 1 has a box but no name"),
        (b"<annotation><name>\xff</name></annotation>", "not an XML file.*invalid token"),
        ("<?xml version='1.0' encoding='klingon'?><annotation/>", "unknown encoding: klingon"),
        ("<?xml version='1.0' encoding='base64'?><annotation/>", "not a text encoding"),
        (b"<?xml version='1.0' encoding='gb2312'?><annotation>\xff</annotation>", "'gb2312' codec can't decode"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(folder, content, message):
    with pytest.raises(UserError, match=rf"(?s)a\.xml: .*{message}"):
        build(folder({"a": content}))


@pytest.mark.parametrize(
    "content",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><annotation>&b;</annotation>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><name>&a;</name></annotation>',
        '<!DOCTYPE x [<!ENTITY % a SYSTEM "http://127.0.0.1:9/x">%a;]><annotation/>',
        '<!DOCTYPE x SYSTEM "x.dtd"><annotation>&a;</annotation>',
    ],
)
def test_entities_are_refused(folder, content):
    with pytest.raises(UserError, match=r"a\.xml: has the XML entity 'a'"):
        build(folder({"a": content}))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252", "gb2312", "shift_jis"])
def test_a_file_is_read_in_the_encoding_that_it_names(tmp_path, encoding):
    name = "犬" if encoding in ("gb2312", "shift_jis", "utf-8", "utf-8-sig", "utf-16") else "Hündin"
    declared = encoding.removesuffix("-sig")
    path = tmp_path / "a.xml"
    path.write_bytes(
        (f"<?xml version='1.0' encoding='{declared}'?>\n" + document(thing(name, 1, 2, 3, 4))).encode(encoding)
    )
    assert [thing.name for thing in read_annotation(path).objects] == [name]


def test_a_file_that_says_utf_16_but_is_not_is_read(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text('<?xml version="1.0" encoding="utf-16"?>' + document(thing("犬", 1, 2, 3, 4)), encoding="utf-8")
    assert read_annotation(path).objects[0].name == "犬"


def test_images_of_any_suffix_are_found_and_jpg_comes_first(folder):
    root = folder({"a": document(), "b c": document()}, suffix=".PNG")
    Image.new("RGB", (60, 40), "white").save(root / "JPEGImages/a.jpg")
    dataset = build(root)
    assert [image["file_name"] for image in dataset.coco()["images"]] == ["JPEGImages/a.jpg", "JPEGImages/b c.PNG"]
    assert dataset[0][0].min() > 250


def test_blank_lines_and_a_byte_order_mark_in_an_image_set_are_no_images(folder):
    root = folder(TWO)
    (root / "ImageSets/Main/train.txt").write_bytes(b"\xef\xbb\xbfb\r\n\r\n  a  \r\n\r\n")
    assert len(build(root)) == 2


def test_a_link_that_git_left_as_its_text_is_followed(folder):
    root = folder(TWO, name="VOC")
    (root / "VOC/JPEGImages").rename(root / "images")
    (root / "VOC/JPEGImages").write_text("../images")
    image, _ = build(root / "VOC")[0]
    assert image.shape == (3, 40, 60)


def test_what_is_missing_is_named_with_the_nearest(folder):
    root = folder(TWO, name="VOC2007", image_set="trainval")
    (root / "VOC2007/ImageSets/Main/cat_train.txt").write_text("b -1\n")
    with pytest.raises(UserError, match=r"did you mean VOC2007/trainval\? \(there are: VOC2007/trainval\)"):
        build(root, ["VOC2007/trainvall"])
    with pytest.raises(UserError, match=r"train\.txt: no such image set.*there are: trainval\)"):
        build(root / "VOC2007", ["train"])
    with pytest.raises(UserError, match=r"/none: no such folder \(PascalVOCDataset's ROOT\)"):
        build(root / "none")
    with pytest.raises(UserError, match=r"JPEGImages: no such folder, but IMAGE_SETS is empty"):
        PascalVOCDataset(root=str(root))
    (root / "VOC2007/Annotations/a.xml").unlink()
    with pytest.raises(UserError, match=r"a\.xml: No such file"):
        build(root, ["VOC2007/trainval"])
    (root / "VOC2007/JPEGImages/b.png").unlink()
    with pytest.raises(UserError, match=r"JPEGImages/b\.jpg: no such image, but .*trainval\.txt lists it"):
        build(root, ["VOC2007/trainval"])
    (root / "VOC2007/JPEGImages").rename(root / "VOC2007/images")
    with pytest.raises(UserError, match=r"JPEGImages: no such folder"):
        build(root, ["VOC2007/trainval"])


def test_an_image_listed_twice_is_named(folder):
    root = folder(TWO)
    with pytest.raises(UserError, match=r"JPEGImages/b\.png: listed twice in train, train"):
        build(root, ["train", "train"])


def test_without_image_sets_every_xml_file_counts_wherever_the_two_folders_are(folder, caplog):
    root = folder(TWO)
    listed = [target["boxes"].tolist() for _, target in build(root)][::-1]  # the set lists b, then a
    caplog.set_level("INFO")
    for part, new in (("Annotations", "xml"), ("JPEGImages", "pictures")):
        (root / part).rename(root / new)
    Image.new("RGB", (60, 40)).save(root / "pictures/new.png")
    apart = build(root, [], ANNOTATIONS="xml", IMAGES="pictures")
    assert [target["boxes"].tolist() for _, target in apart] == listed
    assert "new.png: images without an XML file; 1 of 3 images are of this kind, left out" in caplog.text
    for file in (*root.glob("xml/*"), *root.glob("pictures/*")):
        file.rename(root / file.name)
    flat = build(root, [], ANNOTATIONS=".", IMAGES=".")
    assert [os.path.basename(flat.image_file(index)) for index in range(2)] == ["a.png", "b.png"]
    assert [target["boxes"].tolist() for _, target in flat] == listed
    (root / "a.png").unlink()
    with pytest.raises(UserError, match=r"a\.xml: .* has no image of this name; 1 of 2 files"):
        build(root, [], ANNOTATIONS=".", IMAGES=".")
    with pytest.raises(UserError, match="ImageSets: holds no XML file with an image in"):
        build(root, [], ANNOTATIONS="ImageSets", IMAGES=".")


def test_an_empty_list_of_images_is_refused(folder):
    with pytest.raises(UserError, match="train: no image is listed"):
        build(folder({}))


@pytest.mark.parametrize("classes", [[], ["dog", "cat", "dog"]])
def test_impossible_classes_are_refused(folder, classes):
    with pytest.raises(UserError, match="PascalVOCDataset: CLASSES: expected (one or more|different) names"):
        build(folder(TWO), CLASSES=classes)


def test_a_size_at_odds_with_the_image_is_named(folder):
    root = folder({"a": document(size="<size><width>40</width><height>60</height></size>")})
    with pytest.raises(UserError, match=r"a\.png: .*height 40 and width 60, but its annotation says height 60"):
        build(root)[0]


def test_workers_and_concatenations_take_it(folder):
    root = folder(TWO)
    node = {"NAME": "PascalVOCDataset", "ROOT": str(root), "IMAGE_SETS": ["train"]}
    dataset = build_train_datasets([node, node])
    assert len(dataset) == 4 and dataset[2][1]["image_id"] == 2


@pytest.mark.parametrize(
    ("name", "train", "steps", "max_iter"),
    [
        ("voc07", ["VOC2007/trainval"], [50000], 70000),
        ("voc0712", ["VOC2007/trainval", "VOC2012/trainval"], [80000], 110000),
    ],
)
def test_the_configs_train_on_their_years_and_test_on_2007_at_11_points(name, train, steps, max_iter):
    cfg = load_config(Path(__file__).parents[3] / f"configs/faster_rcnn_vgg16_{name}.yaml")
    assert [list(node.IMAGE_SETS) for node in cfg.DATASETS.TRAIN] == [train]
    assert list(cfg.DATASETS.TEST.IMAGE_SETS) == ["VOC2007/test"]
    assert list(cfg.SOLVER.LR_SCHEDULER.STEPS) == steps and cfg.SOLVER.MAX_ITER == max_iter
    assert (cfg.EVALUATION.EVALUATORS[0].NAME, cfg.EVALUATION.EVALUATORS[0].METRIC) == (
        "PascalVOCEvaluator",
        "11 points",
    )
    assert list(cfg.DATASETS.TEST.CLASSES) == list(cfg.MODEL.CLASSES)
