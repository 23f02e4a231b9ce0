"""Output that nobody reads, or that a full disk refuses, neither ends nor spoils what runs."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from detlite import console
from detlite.config import load_config
from detlite.engine.train import train
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
