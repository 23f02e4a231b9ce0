"""OUTPUT_DIR belongs to one training at a time, and a test leaves the training's files alone."""

import json
import os
import signal
import subprocess
import sys

import pytest

from detlite.checkpoint import load_checkpoint, save_checkpoint
from detlite.cli import main
from detlite.config import load_config
from detlite.data import CocoDataset
from detlite.data.datasets.yolo import YoloDataset
from detlite.engine import output_dir
from detlite.engine.output_dir import open_output
from detlite.engine.train import train
from detlite.errors import UserError
from detlite.evaluation.coco import CocoEvaluator
from detlite.registry import HOOKS
from detlite.writing import write_text

# A process that locks a file as a training does, and waits.
HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("process 4711 on elsewhere, since 12:00", file=file, flush=True)
print("locked", flush=True)
time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path, monkeypatch):
    """A process that trains in tmp_path/output, as far as others can see."""
    monkeypatch.setattr(output_dir, "WAIT", 0.0)
    (tmp_path / "output").mkdir()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "output/.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_training_in_a_folder_names_the_first_and_changes_nothing(tiny_opts, tmp_path, holder, resume):
    (tmp_path / "output/log.txt").write_text("the first training's")
    before = contents(tmp_path / "output")
    with pytest.raises(UserError, match="OUTPUT_DIR: another training writes to .*output: process 4711 on elsewhere"):
        train(load_config(opts=tiny_opts()), resume=resume)
    assert contents(tmp_path / "output") == before


def test_the_system_releases_the_lock_of_a_process_that_is_killed(tiny_opts, tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with pytest.raises(UserError, match="MODEL.CLASSES"):  # a mistake that is found under the lock
        train(load_config(opts=tiny_opts(MODEL__CLASSES=["cat"])))


def test_a_loader_worker_that_outlives_its_training_does_not_keep_the_lock(tmp_path):
    file = output_dir._open_lock(tmp_path / ".lock")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        os.read(reader, 1)  # until the test is over
        os._exit(0)
    file.close()
    code = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    try:
        subprocess.run([sys.executable, "-c", code, str(tmp_path / ".lock")], check=True)
    finally:
        os.close(writer)
        os.waitpid(child, 0)


def test_where_locks_do_not_work_the_training_runs_with_a_warning(tiny_opts, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on a system that is not POSIX
    with pytest.raises(UserError, match="MODEL.CLASSES"):
        train(load_config(opts=tiny_opts(MODEL__CLASSES=["cat"])))
    printed = capsys.readouterr().out
    assert "cannot be locked" in printed and "do not start a second training there" in printed


def test_a_mistake_leaves_no_folder(tiny_opts, tmp_path):
    with pytest.raises(UserError, match="MODEL.CLASSES"):
        train(load_config(opts=tiny_opts(MODEL__CLASSES=["cat"])))
    assert not (tmp_path / "output").exists()


def test_only_names_that_detlite_gives_are_removed_or_moved(tmp_path):
    own = ["movie.mkv.part", "report.doc.0123abcd.part", "checkpoint_mine.pth.part", "vgg16.pth", "checkpoint_mine.txt"]
    stale = ["checkpoint_0000002.pth.0123abcd.part", "model_final.pth.part", "config.yaml.0123abcd.part"]
    for name in [*own, *stale, "metrics.jsonl", "thresholds.json", "check.json"]:
        (tmp_path / name).write_text(name)
    open_output(tmp_path, keep=False)
    assert sorted(contents(tmp_path)) == sorted([*own, ".detlite", "log.txt", "check.json"])
    (folder,) = tmp_path.glob("earlier/*")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "metrics.jsonl": "metrics.jsonl",
        "thresholds.json": "thresholds.json",
    }


def test_a_folder_without_a_record_is_not_moved(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_mine.py").touch()
    with pytest.raises(UserError, match="tests exists, and has no .detlite of detlite's; choose another OUTPUT_DIR"):
        open_output(tmp_path, keep=False)
    assert (tmp_path / "tests/test_mine.py").is_file()


def test_a_test_leaves_the_files_of_a_training_in_its_folder_alone(checkpoint, tmp_path, holder):
    folder = tmp_path / "output"
    for name in ("log.txt", "metrics.jsonl", "config.yaml", "checkpoint_0000002.pth.0123abcd.part", "model_final.pth"):
        (folder / name).write_text(name)
    before = contents(folder)
    assert main(["test", "--weights", str(checkpoint()), "OUTPUT_DIR", str(folder), "EVALUATION.PICTURES", "0"]) == 0
    after = contents(folder)
    assert before.items() <= after.items() and {"evaluation.json", "test_log.txt"} <= after.keys()


@pytest.fixture
def strangers_weights(checkpoint, tmp_path):
    """A checkpoint in a folder of downloads. Its config names the folder tmp_path/output."""
    content = load_checkpoint(checkpoint(EVALUATION__PICTURES=1))
    (tmp_path / "downloads").mkdir()
    save_checkpoint(content, tmp_path / "downloads/weights.pth")
    return tmp_path / "downloads/weights.pth"


def test_a_folder_that_only_a_checkpoint_names_is_not_touched(strangers_weights, tmp_path):
    (tmp_path / "output").mkdir()
    for name in ("movie.mkv.part", "predictions.json"):
        (tmp_path / "output" / name).write_text("mine")
    before = contents(tmp_path / "output")
    assert main(["test", "--weights", str(strangers_weights)]) == 0
    assert contents(tmp_path / "output") == before
    assert json.loads((tmp_path / "downloads/evaluation.json").read_text())["bbox"]["AP"] >= 0
    assert main(["test", "--weights", str(strangers_weights), "EVALUATION.PICTURES", "0"]) == 0  # replaces its own


@pytest.mark.parametrize("name", ["predictions.json", "evaluation.json", "test_log.txt", "report.html"])
def test_a_test_replaces_no_file_of_the_user(strangers_weights, capsys, name):
    (strangers_weights.parent / name).write_text("mine")
    assert main(["test", "--weights", str(strangers_weights), "--report"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: OUTPUT_DIR: ") and f"{name} exists, and .detlite does not list it" in error
    assert (strangers_weights.parent / name).read_text() == "mine"


def test_predictions_that_are_compared_with_are_not_overwritten(strangers_weights, capsys):
    assert main(["test", "--weights", str(strangers_weights), "EVALUATION.PICTURES", "0"]) == 0
    folder = strangers_weights.parent
    assert main(["test", "--weights", str(strangers_weights), "--compare", str(folder)]) == 1
    assert "predictions.json would be overwritten, but it is an input" in capsys.readouterr().err


def test_a_tilde_in_output_dir_is_the_home_folder(tiny_opts, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    opts = [str(word) for word in tiny_opts(OUTPUT_DIR="~/out", EVALUATION__PICTURES=0)]
    assert main(["test", "--weights", f"~/{checkpoint().name}", *opts]) == 0
    (tmp_path / "own.yaml").write_text("_BASE_: ~/base.yaml\nIMPORTS: [~/own_parts.py]\n")
    (tmp_path / "base.yaml").write_text("OUTPUT_DIR: ~/out\n")
    (tmp_path / "own_parts.py").touch()
    assert main(["check", "--data-only", "--config-file", "~/own.yaml", *opts]) == 0
    assert (tmp_path / "out/evaluation.json").is_file() and (tmp_path / "out/check.json").is_file()
    assert not (tmp_path / "~").exists()


def test_a_tilde_in_a_data_set_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "images").mkdir()
    (tmp_path / "coco.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(UserError) as raised:
        CocoDataset(root=str(tmp_path / "elsewhere"), annotations="~/coco.json", images="~/images")
    assert str(raised.value).startswith(f"{tmp_path}/coco.json: ")
    with pytest.raises(UserError, match=f"{tmp_path}/images: .*there is no image"):
        YoloDataset(classes=["a"], images=["~/images"])


def test_a_disk_that_is_full_in_the_evaluation_leaves_the_trained_weights(tiny_opts, tmp_path, full_disk, monkeypatch):
    predictions = CocoEvaluator.predictions
    monkeypatch.setattr(CocoEvaluator, "predictions", lambda self: predictions(self) * 1000)
    opts = tiny_opts(SOLVER__MAX_ITER=1, MODEL__ROI_HEADS__SCORE_THRESHOLD=0.0)
    with full_disk(2**20), pytest.raises(UserError) as raised:
        train(load_config(opts=opts))
    assert str(raised.value) == f"{tmp_path}/output/predictions.json: cannot be written: File too large"
    assert load_checkpoint(tmp_path / "output/model_final.pth")["step"] == 1
    assert not list((tmp_path / "output").glob("*.part"))


def test_a_hook_whose_state_could_not_be_resumed_ends_the_training_after_its_first_step(tiny_opts, tmp_path):
    @HOOKS.register()
    class KeepsAPath:
        def __init__(self, trainer):
            pass

        def state_dict(self):
            return {"path": tmp_path}

    with pytest.raises(
        UserError, match=r"hooks\.KeepsAPath\.path is a pathlib(\._local)?\.PosixPath, which --resume could"
    ):
        train(load_config(opts=tiny_opts(HOOKS=[{"NAME": "KeepsAPath"}])))
    assert len((tmp_path / "output/metrics.jsonl").read_text().splitlines()) == 1


def test_a_run_of_an_earlier_version_is_resumed_with_its_files(tmp_path):
    (tmp_path / "pictures").mkdir()
    for name in ("config.yaml", "predictions.json", "pictures/0.png"):
        (tmp_path / name).write_text("old")
    open_output(tmp_path, keep=True)
    for name in ("config.yaml", "predictions.json", "pictures/0.png"):
        write_text("new", tmp_path / name)
        assert (tmp_path / name).read_text() == "new"
