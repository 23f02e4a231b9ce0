"""Files are replaced whole, and only where detlite wrote them before."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from detlite.engine.output_dir import holding_output
from detlite.errors import UserError
from detlite.writing import claim, open_atomically, write_csv, write_json, write_picture, write_text


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_file_is_replaced_when_it_is_whole_and_an_error_leaves_nothing_else(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(ValueError), open_atomically(path) as file:
        file.write(b"half")
        assert len(names(tmp_path)) == 2 and path.read_text() == "old"
        raise ValueError
    assert path.read_text() == "old" and names(tmp_path) == ["x"]
    with open_atomically(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == ["x"]


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    with open_atomically(tmp_path / "x") as first:
        first.write(b"first")
        with open_atomically(tmp_path / "x") as second:
            second.write(b"second")
        assert (tmp_path / "x").read_text() == "second"
    assert (tmp_path / "x").read_text() == "first" and names(tmp_path) == ["x"]


def test_a_user_s_file_is_never_replaced_and_detlite_s_own_is(tmp_path):
    (tmp_path / "results.json").write_text("mine")
    with pytest.raises(UserError, match=r"results\.json exists, and \.detlite does not list it"):
        write_json([1], tmp_path / "results.json")
    assert (tmp_path / "results.json").read_text() == "mine"
    for value in (1, 2):
        write_json([value], tmp_path / "new" / "results.json")
    assert json.loads((tmp_path / "new" / "results.json").read_text()) == [2]


def test_an_input_is_not_replaced_even_by_another_name_for_it(tmp_path):
    write_text("an earlier result", tmp_path / "x.txt")
    (tmp_path / "link").symlink_to(tmp_path / "x.txt")
    with pytest.raises(UserError, match=r"x\.txt would be overwritten, but it is an input"):
        claim(tmp_path / "x.txt", inputs=[tmp_path / "link"])


def test_a_torn_or_foreign_record_hides_no_names_and_a_pipe_in_its_place_does_not_block(tmp_path):
    (tmp_path / ".detlite").write_bytes(b'\n"a.tx\n[1]\n{}\n\xff\n5')
    for text in ("one", "two"):
        write_text(text, tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "two"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / ".detlite").unlink()
    (tmp_path / ".detlite").symlink_to(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"cannot be written: Not a regular file"):
        write_text("", tmp_path / "b.txt")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_refused_even_if_it_is_listed(make, tmp_path):
    write_text("an earlier result", tmp_path / "log.txt")
    (tmp_path / "log.txt").unlink()
    make(tmp_path / "log.txt")
    with pytest.raises(UserError, match=r"log\.txt is not a regular file; remove it, or choose another output"):
        claim(tmp_path / "log.txt", adopt=True)


@pytest.mark.parametrize("name", ["log.txt", ".detlite", ".lock"])
def test_a_link_in_the_place_of_a_file_is_refused_and_its_target_stays(name, tmp_path):
    folder, target = tmp_path / "output", tmp_path / "target"
    folder.mkdir()
    target.write_text("mine")
    (folder / name).symlink_to(target)

    @holding_output
    def train(cfg):
        claim(folder / "log.txt", adopt=True)

    with pytest.raises(UserError, match=r"log\.txt is not a regular file|cannot be written"):
        train(SimpleNamespace(OUTPUT_DIR=str(folder)))
    assert target.read_text() == "mine"


def test_names_of_any_bytes_are_listed(tmp_path):
    path = tmp_path / os.fsdecode(b"a\xff\n.txt")
    for text in ("one", "two"):
        write_text(text, path)
    assert path.read_text() == "two"


@pytest.mark.parametrize(
    ("write", "path", "reason"),
    [
        (lambda path: write_json([], path), "x" * 300, "File name too long"),
        (lambda path: write_csv([], path, ["a"]), "file/x.csv", "Not a directory|File exists"),
        (lambda path: write_text("", path), "/proc/x", "No such file or directory|Permission denied|Read-only"),
        (
            lambda path: write_picture(Image.new("RGB", (9, 9)), path),
            "/sys/x.png",
            "Permission denied|Read-only file system",
        ),
    ],
)
def test_every_reason_that_a_file_cannot_be_written_is_one_message(tmp_path, write, path, reason):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"cannot be written: ({reason})"):
        write(tmp_path / path)


def test_a_full_disk_is_one_message_and_leaves_the_old_file(tmp_path, full_disk):
    write_json(["old"], tmp_path / "x.json")
    with full_disk(4000), pytest.raises(UserError, match=r"x\.json: cannot be written: File too large"):
        write_json(["new" * 4000], tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == ["old"] and names(tmp_path) == [".detlite", "x.json"]


def test_a_file_name_that_is_no_text_is_escaped_in_a_csv_file(tmp_path):
    write_csv([{"file": os.fsdecode(b"a\xff.jpg")}], tmp_path / "x.csv", ["file"])
    assert (tmp_path / "x.csv").read_text() == "file\na\\udcff.jpg\n"


def test_a_picture_has_the_format_of_its_suffix(tmp_path):
    for name, kind in (("x.png", "PNG"), ("x.jpg", "JPEG"), ("x.JPEG", "JPEG")):
        write_picture(Image.new("RGB", (9, 9)), tmp_path / name)
        with Image.open(Path(tmp_path / name)) as picture:
            assert picture.format == kind


def test_a_text_that_a_spreadsheet_would_run_is_quoted_in_a_csv_file(tmp_path):
    rows = [
        {"name": "=cmd|'/c calc'!A0", "score": -0.5},
        {"name": "-x.jpg", "score": 1},
        {"name": "a=b", "score": None},
    ]
    write_csv(rows, tmp_path / "x.csv", ["name", "score"])
    assert (tmp_path / "x.csv").read_text() == "name,score\n'=cmd|'/c calc'!A0,-0.5\n'-x.jpg,1\na=b,\n"
