"""Some corruptions of ``corrupted_inputs.py``, and mistakes that others have found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from detlite.data import YoloDataset, read_image
from detlite.data.datasets.coco_json import read_json
from detlite.data.image_files import read_header
from detlite.errors import UserError

SCRIPT = Path(__file__).with_name("corrupted_inputs.py")


def test_single_corruptions_are_counted_or_named_and_found():
    result = subprocess.run(
        [sys.executable, SCRIPT, "--count", "30", "--seed", "1"], capture_output=True, text=True, errors="replace"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "30 corruptions: {" in result.stdout and "WRONG" not in result.stdout


@pytest.mark.parametrize("read", [read_image, read_header, read_json])
def test_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"x\.png: .*Not a regular file"):
        read(tmp_path / "x.png")


def test_a_key_that_is_twice_in_an_object_is_named(tmp_path):
    (tmp_path / "x.json").write_text('{"images": [], "annotations": [{"id": 3, "bbox": [1], "bbox": [2]}]}')
    with pytest.raises(UserError, match=r"x\.json: not a JSON file: the key 'bbox' occurs twice in one object, .*3"):
        read_json(tmp_path / "x.json")


def test_labels_that_cannot_be_read_or_have_no_image_are_not_taken_for_none(tmp_path, caplog):
    for stem in "ab":
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / f"labels/{stem}.txt").write_text("0 0.5 0.5 0.5 0.5")
        Image.new("RGB", (8, 8)).save(tmp_path / f"images/{stem}.png")
    keys = {"root": str(tmp_path), "images": ["images"], "classes": ["cat"]}
    (tmp_path / "images/b.png").unlink()
    with caplog.at_level("WARNING"):
        assert len(YoloDataset(**keys)) == 1
    assert "b.txt: there is no image of this name; 1 of 2 files" in caplog.text
    (tmp_path / "labels/a.txt").unlink()
    (tmp_path / "labels/a.txt").symlink_to("gone")
    with pytest.raises(UserError, match=r"a\.txt: No such file"):
        YoloDataset(**keys)
