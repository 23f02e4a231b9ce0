import csv
import json
import ntpath
import os
import pickle
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import to_pil_image

from detlite.cli import main
from detlite.data import CocoDataset, PascalVOCDataset, ShapesDataset, YoloDataset
from detlite.errors import UserError
from detlite.prediction import files as prediction_files
from detlite.prediction.detector import Detector
from detlite.prediction.files import find_images, predict


@pytest.fixture
def folder(tmp_path):
    """A folder with three images, one of them below, and a file that is none."""
    (tmp_path / "images" / "below").mkdir(parents=True)
    for name, size in (("b.png", 64), ("a.JPG", 80), ("below/c.png", 64)):
        to_pil_image(ShapesDataset(image_size=size, seed=3)[0][0]).save(tmp_path / "images" / name)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def test_files_folders_and_patterns_are_found_once_each(folder):
    def find(*names):
        return [path.removeprefix(f"{folder}/") for path in find_images([folder / name for name in names])]

    assert find("") == ["a.JPG", "b.png", "below/c.png"]
    assert find("*") == ["a.JPG", "b.png"]
    assert find("**/*.png") == ["b.png", "below/c.png"]
    assert find("b.png", "") == ["b.png", "a.JPG", "below/c.png"]
    assert find("notes.txt") == ["notes.txt"]  # who names a file means it


def test_a_name_with_brackets_is_a_file_where_there_is_one(tmp_path):
    (tmp_path / "photo[1].png").touch()
    (tmp_path / "shots[2]").mkdir()
    (tmp_path / "shots[2]" / "a.png").touch()
    assert find_images([tmp_path / "photo[1].png"]) == [str(tmp_path / "photo[1].png")]
    assert find_images([tmp_path / "shots[2]"]) == [str(tmp_path / "shots[2]" / "a.png")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("*.gif", r"\*.gif: no images found$"),
        ("n*", "n.*: no images found .none of 1 files ends in .bmp, .gif"),
        ("empty", "empty: no images found$"),
        ("c.png", r"c.png: no images found; did you mean .*\.png\?$"),
    ],
)
def test_what_stands_for_no_image_is_an_error(folder, name, message):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        find_images([folder, folder / name])


@pytest.mark.parametrize("workers", [0, 2])
def test_json_csv_and_pictures_say_what_the_detector_finds(checkpoint, folder, tmp_path, workers):
    detector = Detector.from_checkpoint(checkpoint(), device="cpu", batch_size=2)
    detector.score_threshold = detector(folder / "b.png")["scores"][1].item()
    paths = find_images([folder])
    result, failures = predict(detector, paths, tmp_path / "out", num_workers=workers)
    assert failures == [] and json.loads((tmp_path / "out" / "predictions.json").read_text()) == result

    assert [(image["file_name"], image["height"]) for image in result["images"]] == list(
        zip(paths, [80, 64, 64], strict=True)
    )
    assert [category["name"] for category in result["categories"]] == ["circle", "square", "triangle"]
    expected = [
        (path, detection) for path in paths for detection in zip(*list(detector(path).values())[:3], strict=True)
    ]
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(expected) == len(result["annotations"]) == len(rows) > 1
    names = {image["id"]: image["file_name"] for image in result["images"]}
    for (path, (box, score, label)), annotation, row in zip(expected, result["annotations"], rows, strict=True):
        assert names[annotation["image_id"]] == row["file_name"] == path
        assert annotation["category_id"] == label and row["name"] == detector.classes[label - 1]
        assert annotation["score"] == pytest.approx(score.item(), abs=1e-5)
        x, y, width, height = annotation["bbox"]
        torch.testing.assert_close(torch.tensor([x, y, x + width, y + height]), box, atol=1e-3, rtol=0)
        assert [float(row[key]) for key in ("x1", "y1", "x2", "y2")] == pytest.approx(box.tolist(), abs=0.01)

    pictures = tmp_path / "out" / "pictures"
    assert sorted(str(path.relative_to(pictures)) for path in pictures.rglob("*.[Jj]*")) == [
        "a.JPG",
        "b.png.jpg",
        "below/c.png.jpg",
    ]
    with Image.open(pictures / "a.JPG") as picture:
        assert picture.size == (320, 320)  # small ones are enlarged, so that names can be read


def test_the_processes_that_read_images_do_not_receive_the_model(checkpoint, folder, tmp_path, monkeypatch):
    """Where processes are spawned (macOS, Windows, Python 3.14), the data set and the function are pickled for each."""
    detector = Detector.from_checkpoint(checkpoint(), device="cpu")
    monkeypatch.setattr(
        type(detector.model), "__reduce_ex__", lambda self, protocol: pytest.fail("the model is pickled"), raising=False
    )
    sent = []

    def loader(dataset, *, collate_fn, **options):
        sent.append(pickle.dumps((dataset, collate_fn)))
        dataset, collate_fn = pickle.loads(sent[0])
        return DataLoader(dataset, collate_fn=collate_fn, **options)

    monkeypatch.setattr(prediction_files, "DataLoader", loader)
    result, failures = predict(detector, find_images([folder]), tmp_path / "out", pictures=False, num_workers=0)
    assert len(result["images"]) == 3 and failures == [] and len(sent) == 1


def test_the_json_is_a_data_set_that_a_training_can_read(checkpoint, folder, tmp_path):
    detector = Detector.from_checkpoint(checkpoint(), device="cpu")
    result, _ = predict(detector, find_images([folder]), tmp_path / "out", pictures=False, num_workers=0)
    assert not (tmp_path / "out" / "pictures").exists()
    dataset = CocoDataset(annotations=str(tmp_path / "out" / "predictions.json"), images="/")
    assert dataset.classes == detector.classes and sum(len(target["labels"]) for _, target in dataset) == len(
        result["annotations"]
    )


def test_nothing_found_is_an_empty_result(checkpoint, folder, tmp_path):
    detector = Detector.from_checkpoint(checkpoint(), device="cpu", score_threshold=1.1)
    result, _ = predict(detector, find_images([folder]), tmp_path / "out", num_workers=0)
    assert len(result["images"]) == 3 and result["annotations"] == []
    assert (tmp_path / "out" / "predictions.csv").read_text().strip() == "file_name,name,score,x1,y1,x2,y2"


def test_bad_files_are_skipped_and_counted_and_the_exit_status_is_1(checkpoint, folder, tmp_path, capsys):
    (folder / "broken.jpg").write_bytes(b"no image")
    arguments = ["predict", "--weights", str(checkpoint()), str(folder), "--output", str(tmp_path / "out")]
    arguments += ["--device", "cpu", "--workers", "0"]
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert f"skipped: {folder / 'broken.jpg'}: cannot be read as an image" in out
    assert "in 3 images" in out and "images/s" in out
    assert err.startswith(f"error: 1 of 4 files could not be read; the first: {folder / 'broken.jpg'}")
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 3
    (folder / "broken.jpg").unlink()
    assert main([*arguments, "--no-pictures", "--opts", "MODEL.ROI_HEADS.NMS.IOU", "0.2"]) == 0


def test_pictures_have_names_unless_they_are_not_wanted(checkpoint, folder, tmp_path, monkeypatch):
    weights, written = str(checkpoint(MODEL__ROI_HEADS__DETECTIONS_PER_IMAGE=3)), []
    monkeypatch.setattr("detlite.drawing.Panel._write_name", lambda panel, box, color, name: written.append(name))
    arguments = ["predict", "--weights", weights, str(folder / "b.png"), "--output", str(tmp_path / "out")]
    for more, count in (([], 3), (["--no-labels"], 0)):
        written.clear()
        assert main([*arguments, "--score-threshold", "0", "--device", "cpu", "--workers", "0", *more]) == 0
        assert len(written) == count


def test_all_files_bad_is_no_crash(checkpoint, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    detector = Detector.from_checkpoint(checkpoint(), device="cpu")
    result, failures = predict(detector, [str(tmp_path / "broken.jpg")], tmp_path / "out", num_workers=0)
    assert result["images"] == [] and len(failures) == 1


def test_no_image_matched_is_told_before_weights_are_read(tmp_path, capsys):
    assert main(["predict", "--weights", "nowhere.pth", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path}: no images found\n"


def test_photographs_are_never_overwritten(checkpoint, folder, monkeypatch, capsys):
    (folder.parent / "pictures").mkdir()
    photograph = folder.parent / "pictures/a.jpg"
    to_pil_image(ShapesDataset(image_size=64)[0][0]).save(photograph)
    before = photograph.read_bytes()
    monkeypatch.chdir(folder.parent)
    arguments = ["predict", "--weights", str(checkpoint()), "--device", "cpu", "--workers", "0", "--output", "."]
    assert main([*arguments, "pictures"]) == 1
    assert "pictures/a.jpg would be overwritten, but it is an input" in capsys.readouterr().err
    (folder / "a.JPG").rename(folder / "a.jpg")
    assert main([*arguments, "images/a.jpg"]) == 1
    assert "pictures/a.jpg exists, and .detlite does not list it as detlite's" in capsys.readouterr().err
    assert photograph.read_bytes() == before and not (folder.parent / "predictions.json").exists()


def test_results_of_an_earlier_call_are_replaced_and_other_files_are_not(checkpoint, folder, tmp_path):
    detector = Detector.from_checkpoint(checkpoint(), device="cpu", score_threshold=1.1)
    for paths in ([folder / "b.png"], [folder / "b.png", folder / "a.JPG"]):
        result, _ = predict(detector, list(map(str, paths)), tmp_path / "out", num_workers=0)
        assert json.loads((tmp_path / "out/predictions.json").read_text()) == result and len(result["images"]) == len(
            paths
        )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/predictions.csv").write_text("mine")
    with pytest.raises(UserError, match=r"predictions\.csv exists"):
        predict(detector, [str(folder / "b.png")], tmp_path / "mine", num_workers=0)
    assert (tmp_path / "mine/predictions.csv").read_text() == "mine"


def test_two_images_never_share_a_picture(checkpoint, folder, tmp_path):
    to_pil_image(ShapesDataset(image_size=64)[0][0]).save(folder / "B.PNG.jpg")
    detector = Detector.from_checkpoint(checkpoint(), device="cpu", score_threshold=1.1)
    with pytest.raises(UserError, match=r"B\.PNG\.jpg and .*b\.png would share .*pictures/b\.png\.jpg; rename one"):
        predict(detector, find_images([folder]), tmp_path / "out", num_workers=0)


def test_files_of_two_drives_are_refused(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_files, "os", SimpleNamespace(path=ntpath))
    detector = Detector.from_checkpoint(checkpoint(), device="cpu")
    with pytest.raises(UserError, match="the files are on several drives; detect in those of one drive"):
        predict(detector, ["C:/photos/a.jpg", "D:/b.jpg"], tmp_path / "out")


def test_a_file_name_that_is_no_text_is_in_all_results(checkpoint, folder, tmp_path):
    path = os.fsdecode(bytes(folder / "a") + b"\xff.jpg")
    (folder / "a.JPG").rename(path)
    detector = Detector.from_checkpoint(checkpoint(), device="cpu", score_threshold=0.0)
    predict(detector, [path], tmp_path / "out", num_workers=0)
    assert json.loads((tmp_path / "out/predictions.json").read_text())["images"][0]["file_name"] == path
    assert "a\\udcff.jpg," in (tmp_path / "out/predictions.csv").read_text(encoding="utf-8")


def test_an_output_that_cannot_be_written_is_told_before_the_detection(checkpoint, folder, tmp_path, monkeypatch):
    detector = Detector.from_checkpoint(checkpoint(), device="cpu")
    monkeypatch.setattr(detector, "detect", lambda prepared: pytest.fail("it detects"))
    (tmp_path / "file").touch()
    for output, reason in (("file", "File exists"), ("file/x", "Not a directory"), ("x" * 300, "File name too long")):
        with pytest.raises(UserError, match=f"cannot be written: {reason}"):
            predict(detector, find_images([folder]), tmp_path / output, num_workers=0)


def test_a_disk_that_is_full_after_the_detection_is_one_message(checkpoint, folder, tmp_path, full_disk):
    detector = Detector.from_checkpoint(checkpoint(), device="cpu", score_threshold=0.0)
    with full_disk(500), pytest.raises(UserError, match=r"predictions\.json: cannot be written: File too large"):
        predict(detector, find_images([folder]), tmp_path / "out", pictures=False, num_workers=0)


def test_a_tilde_is_the_home_folder(checkpoint, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    weights = checkpoint()
    arguments = ["--weights", f"~/{weights.name}", "--device", "cpu", "--workers", "0", "--output", "~/out"]
    assert main(["predict", "~/images", "~/images/below/*.png", *arguments]) == 0
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())["images"]) == 3


@pytest.mark.parametrize("format", ["yolo", "voc"])
def test_annotations_are_a_data_set_that_a_training_can_read(checkpoint, tmp_path, format):
    for name in ("a.png", "below/b.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pil_image(ShapesDataset(image_size=96, seed=3)[0][0][:, :80]).save(path)
    arguments = ["predict", "--weights", str(checkpoint()), str(tmp_path / "images"), "--output", str(tmp_path)]
    options = ["--format", format, "--score-threshold", "0.1", "--device", "cpu", "--workers", "0", "--no-pictures"]
    assert main([*arguments, *options]) == 0
    result = json.loads((tmp_path / "predictions.json").read_text())
    names = [category["name"] for category in result["categories"]]

    if format == "yolo":
        assert (tmp_path / "classes.txt").read_text().splitlines() == names
        read = YoloDataset(root=str(tmp_path), images=["images"], classes=names)
        atol = 1e-4
    else:
        # Only images/ itself: VOC's readers do not look into subfolders.
        read = PascalVOCDataset(root=str(tmp_path), images="images", classes=names)
        assert (tmp_path / "Annotations/below/b.xml").exists()
        atol = 0.01
    assert len(read) == {"yolo": 2, "voc": 1}[format]
    for index, (_, target) in enumerate(read):
        wanted = [row for row in result["annotations"] if row["image_id"] == index + 1]
        assert target["labels"].tolist() == [row["category_id"] for row in wanted] and len(wanted) > 1
        boxes = torch.tensor([row["bbox"] for row in wanted])
        boxes[:, 2:] += boxes[:, :2]
        torch.testing.assert_close(target["boxes"], boxes, atol=atol, rtol=0)


def test_annotations_of_a_user_are_never_overwritten(checkpoint, folder, tmp_path):
    detector = Detector.from_checkpoint(checkpoint(), device="cpu")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("mine")
    options = {"format": "yolo", "pictures": False, "num_workers": 0}
    with pytest.raises(UserError, match=r"labels/a\.txt exists, and \.detlite does not list it"):
        predict(detector, find_images([folder]), tmp_path, **options)
    assert (tmp_path / "labels/a.txt").read_text() == "mine"

    (folder / "A.jpg").touch()
    with pytest.raises(UserError, match=r"A\.jpg and .*a\.JPG would share .*labels/a\.txt; rename one"):
        predict(detector, find_images([folder]), tmp_path / "out", **options)


def test_the_xml_escapes_names(checkpoint, folder, tmp_path):
    (folder / "b.png").rename(folder / "<b> & c.png")
    detector = Detector.from_checkpoint(checkpoint(), device="cpu")
    detector.classes = ["<a>", "b & c", "c"]
    path = str(folder / "<b> & c.png")
    result, _ = predict(detector, [path], tmp_path / "out", pictures=False, format="voc", num_workers=0)
    root = ElementTree.parse(tmp_path / "out/Annotations/<b> & c.xml").getroot()
    assert root.findtext("filename") == "<b> & c.png" and root.findtext("size/width") == "64"
    names = [detector.classes[row["category_id"] - 1] for row in result["annotations"]]
    assert [name.text for name in root.findall("object/name")] == names and set(names) & {"<a>", "b & c"}
