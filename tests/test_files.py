"""Files that a user names: pipes, endless, huge and damaged ones are one message."""

import os
import threading

import pytest

from detlite.config import load_config
from detlite.engine.compare import read_variants
from detlite.errors import UserError, nearest_path
from detlite.files import DATA_LIMIT, read_json, read_json_lines, read_text
from detlite.inspection.report.write import read_run


@pytest.fixture
def pipe(tmp_path):
    """A pipe without content, whose writer ends as soon as it is read."""
    path = tmp_path / "metrics.jsonl"
    os.mkfifo(path)
    threading.Thread(target=lambda: open(path, "wb").close(), daemon=True).start()
    yield path
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))  # ends a writer that still waits


@pytest.mark.parametrize("read", [load_config, read_variants, read_json, read_run, read_text])
def test_a_pipe_is_refused_and_not_waited_for(pipe, read):
    with pytest.raises(UserError, match=r"metrics\.jsonl: Not a regular file"):
        read(pipe)


def test_a_pipe_for_a_base_or_beside_predictions_is_refused(pipe):
    (pipe.parent / "own.yaml").write_text("_BASE_: metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics\.jsonl: Not a regular file \(_BASE_ of .*own\.yaml\)"):
        load_config(pipe.parent / "own.yaml")
    (pipe.parent / "predictions.json").write_text("[]")
    with pytest.raises(UserError, match=r"metrics\.jsonl: Not a regular file"):
        read_run(pipe.parent)


def test_predictions_that_are_a_link_to_itself_are_refused(tmp_path):
    (tmp_path / "predictions.json").symlink_to("predictions.json")
    with pytest.raises(UserError, match=r"predictions\.json: Too many levels of symbolic links"):
        read_run(tmp_path)


def test_a_device_without_end_is_refused():
    with pytest.raises(UserError, match="/dev/zero: Not a regular file"):
        load_config("/dev/zero")


def test_a_file_over_the_limit_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "huge.json"
    with open(path, "wb") as file:
        file.truncate(DATA_LIMIT + 2**20)  # a hole, which takes no space on the disk
    with pytest.raises(UserError, match=r"huge\.json: 8,193\.0 MiB, expected at most 8,192 MiB"):
        read_json(path)
    with pytest.raises(UserError, match=r"huge\.json: 8,193\.0 MiB, expected at most 1 MiB \(config file\)"):
        load_config(path)


def test_text_that_is_not_utf_8_is_refused_with_its_line(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes("cat\nBär\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"classes\.txt:2: not UTF-8: byte 0xe4; save the file as UTF-8"):
        read_text(path)


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_bytes(b"\xef\xbb\xbfSEED: 5")
    assert read_text(path) == "SEED: 5" and load_config(path).SEED == 5


def test_the_last_line_of_json_lines_may_be_incomplete(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a":')
    assert read_json_lines(path) == [{"a": 1}, {"a": 2}]


def test_deeply_nested_json_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"x\.json: not a JSON file: "):
        read_json(path)


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "data").symlink_to("data")
    assert nearest_path(tmp_path / "data") == "; it is a link to data, which leads nowhere"
