"""Output that nobody reads, or that a full disk refuses, neither ends nor spoils what runs."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from detlite import console
from detlite.cli import main
from detlite.config import load_config
from detlite.engine.train import train
from detlite.evaluation.evaluator import format_table
from detlite.logs import logger, move_log_to, start_log

ROOT = Path(__file__).parents[1]
FULL = Path("/dev/full")  # Linux's device whose disk is always full


@pytest.mark.parametrize("redirection", ["| true", ">&-", "2>&-", ">&- 2>&- <&-", ">/dev/full", ">/dev/full 2>&1"])
def test_a_command_whose_output_is_gone_ends_well(redirection):
    command = f"sleep 0.1; {sys.executable} -m detlite.cli --help {redirection}"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (run.returncode, run.stderr) == (0, "")


def test_files_never_get_the_numbers_of_closed_streams(tmp_path):
    code = "import sys; from detlite.console import keep_console; keep_console(); print(open(sys.argv[1]).fileno() > 2)"
    command = ["bash", "-c", f"{sys.executable} -c '{code}' {__file__} <&- 2>&-"]
    assert subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout == "True\n"


class Gone(io.StringIO):
    """A stream whose reader has ended."""

    def write(self, text):
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [None, Gone()])
def test_a_script_trains_on_when_its_output_is_gone(tiny_opts, tmp_path, monkeypatch, stream):
    cfg = load_config(opts=tiny_opts(SOLVER__MAX_ITER=1))
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    train(cfg)
    assert "step 1/1" in (tmp_path / "output/log.txt").read_text()


@pytest.mark.skipif(not FULL.exists(), reason="needs Linux's /dev/full")
def test_a_log_on_a_full_disk_is_one_warning(capfd):
    start_log()
    move_log_to(FULL)
    for number in range(3):
        logger.info("line %d", number)
    start_log()
    warning = "warning: /dev/full: cannot be written: No space left on device; lines of the log may be lost"
    assert capfd.readouterr() == (f"line 0\n{warning}\nline 1\nline 2\n", "")


def test_characters_that_the_console_lacks_are_escaped():
    ascii_stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    assert console.printable("a\udcffé", ascii_stream) == "a\\udcff\\xe9"


def test_characters_that_control_a_terminal_are_escaped_and_line_ends_only_in_names():
    assert console.printable("a\x1b[31mb\r\x9b\u202ec\n\td") == "a\\x1b[31mb\\r\\x9b\\u202ec\n\td"
    assert console.one_line("a\nb\tc\x1b") == "a\\nb\\tc\\x1b"


def test_a_name_cannot_forge_a_line_of_the_log_or_control_the_terminal(tmp_path, capsys):
    start_log()
    move_log_to(tmp_path / "log.txt")
    logger.warning("left out: %s", "cat\nerror: forged\x1b[2J")
    logger.info("%s", format_table(["class", "AP"], [["cat\nerror: forged", 0.5]]))
    start_log()
    printed, logged = capsys.readouterr().out, (tmp_path / "log.txt").read_text()
    for text in (printed, logged):
        assert "\x1b" not in text and not any(line.startswith("error") for line in text.splitlines())
    assert "left out: cat\n  error: forged\\x1b[2J\n" in printed and "cat\\nerror: forged" in printed


def test_a_class_name_cannot_forge_an_error(tmp_path, capsys):
    name = "cat\nerror: forged\x1b[2J"
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}
    Image.new("RGB", (32, 32)).save(tmp_path / "1.png")
    image = {"id": 1, "file_name": "1.png", "width": 32, "height": 32}
    content = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": name}]}
    (tmp_path / "x.json").write_text(json.dumps(content))
    data = {"NAME": "CocoDataset", "ROOT": str(tmp_path), "ANNOTATIONS": "x.json", "IMAGES": "."}
    opts = ["DATASETS.TRAIN", json.dumps([data]), "DATASETS.TEST", json.dumps(data)]
    assert main(["--data-only", *opts, "OUTPUT_DIR", str(tmp_path / "output")], command="check") == 0
    assert main(["MODEL.CLASSES", "[dog]", *opts, "OUTPUT_DIR", str(tmp_path / "output")], command="train") == 1
    printed = "".join(capsys.readouterr())
    assert "cat\\nerror: forged\\x1b[2J" in printed and "\x1b" not in printed
    assert [line[:15] for line in printed.splitlines() if line.startswith("error")] == ["error: command "]
