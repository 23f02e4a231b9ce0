"""How far a loop has come, where there is a terminal and where there is none."""

import io

import pytest
from tqdm import tqdm

from detlite import logs as module
from detlite.config import load_config
from detlite.engine.train import train
from detlite.logs import Bar, progress


@pytest.fixture
def lines(monkeypatch):
    found = []
    monkeypatch.setattr(module.logger, "info", lambda text, *args: found.append(text % args))
    monkeypatch.setattr(module, "SECONDS", 1e-9)
    return found


def test_without_a_terminal_there_are_lines_in_the_log(lines, capfd):
    bars = [progress(total=2, desc=name) for name in ("train", "left by a failure")]
    assert list(progress(range(3), unit="batch", desc="test")) == [0, 1, 2]
    assert [line.split(",")[0] for line in lines] == ["test: 1/3 batch", "test: 2/3 batch", "test: 3/3 batch"]
    assert lines[0].endswith(" left") and capfd.readouterr() == ("", "")
    del bars


@pytest.mark.parametrize(("seconds", "disable"), [(60, False), (1e-9, True)])
def test_a_short_loop_or_another_process_says_nothing(lines, monkeypatch, seconds, disable):
    monkeypatch.setattr(module, "SECONDS", seconds)
    assert list(progress(range(3), disable=disable)) == [0, 1, 2]
    assert lines == []


def test_on_a_terminal_there_is_a_bar(lines, monkeypatch, capsys):
    monkeypatch.setattr(module, "on_terminal", lambda: True)
    list(progress(range(3), desc="test"))
    assert "3/3" in capsys.readouterr().err and lines == []


@pytest.mark.parametrize(("seconds", "expected"), [(1e-9, 3), (60, 0)])
def test_a_training_shows_progress_between_its_lines(tiny_opts, tmp_path, monkeypatch, seconds, expected):
    monkeypatch.setattr(module, "SECONDS", seconds)
    train(load_config(opts=tiny_opts(SOLVER__MAX_ITER=4, SOLVER__LOG_PERIOD=100)))
    log = (tmp_path / "output" / "log.txt").read_text()
    assert log.count("/4 step, ") == expected + (seconds < 1)  # bars come before lines of averages


def test_a_bar_that_is_collected_while_a_message_is_written_changes_no_set():
    bar = Bar(total=1, disable=False, file=io.StringIO())
    bars = iter(tqdm._instances)
    next(bars)
    bar.__del__()  # as the garbage collector may do at any moment
    list(bars)
    bar.close()
