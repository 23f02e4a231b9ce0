"""A training that is stopped, by a signal, a kill, a full disk or a number that is not finite, loses nothing."""

import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detlite.checkpoint import load_checkpoint
from detlite.config import load_config
from detlite.engine import hooks
from detlite.engine.train import train
from detlite.engine.trainer import Trainer
from detlite.errors import UserError
from detlite.evaluation import inference

ROOT = Path(__file__).parents[2]


def read_metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_measures(lines):
    measures = {"seconds", "memory"}
    return [{name: value for name, value in line.items() if not measures & {*name.split("_")}} for line in lines]


def assert_same_run(first, second):
    weights = [load_checkpoint(folder / "model_final.pth")["model"] for folder in (first, second)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert without_measures(read_metrics(first)) == without_measures(read_metrics(second))


def in_step(monkeypatch, step, do):
    """Do something within a step of the training."""
    compute_gradients = Trainer.compute_gradients

    def doing(trainer, images, targets):
        if trainer.step == step:
            do()
        return compute_gradients(trainer, images, targets)

    monkeypatch.setattr(Trainer, "compute_gradients", doing)


def send(number):
    return lambda: os.kill(os.getpid(), number)


STOPS = {"SIGTERM": SystemExit, "SIGHUP": SystemExit, "SIGUSR1": SystemExit, "SIGINT": KeyboardInterrupt}


def test_signals_that_a_platform_lacks_are_left_out(monkeypatch):
    monkeypatch.delattr(signal, "SIGHUP")
    monkeypatch.delattr(signal, "SIGUSR1")
    names = runpy.run_path(ROOT / "detlite/signals.py")
    assert names["StopSignals"].numbers == (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize(("name", "stop"), STOPS.items())
def test_a_signal_finishes_the_step_and_saves(tiny_opts, tmp_path, monkeypatch, name, stop):
    opts = tiny_opts(SOLVER__LOG_PERIOD=4)
    train(load_config(opts=[*opts, "OUTPUT_DIR", str(tmp_path / "whole")]))
    with monkeypatch.context() as patch, pytest.raises(stop) as raised:
        in_step(patch, 2, send(getattr(signal, name)))
        train(load_config(opts=opts))
    assert getattr(raised.value, "code", 143) == 143
    folder = tmp_path / "output"
    assert [file.name for file in folder.glob("*.pth")] == ["checkpoint_0000003.pth"]
    assert "checkpoint_0000003.pth; --resume continues" in (folder / "log.txt").read_text()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(load_config(opts=opts), resume=True)
    assert_same_run(tmp_path / "whole", folder)
    assert [line["step"] for line in read_metrics(folder)] == [1, 4, 6]


def test_a_second_sigint_stops_at_once(tiny_opts, tmp_path, monkeypatch):
    def twice():
        send(signal.SIGINT)()
        send(signal.SIGINT)()

    in_step(monkeypatch, 2, twice)
    with pytest.raises(KeyboardInterrupt):
        train(load_config(opts=tiny_opts()))
    assert not list((tmp_path / "output").glob("*.pth"))


def test_a_signal_in_an_evaluation_gives_it_up_and_it_is_done_when_the_run_goes_on(tiny_opts, tmp_path, monkeypatch):
    opts = tiny_opts(EVALUATION__PERIOD=2, EVALUATION__BEST="bbox.AP", SOLVER__MAX_ITER=4)
    train(load_config(opts=[*opts, "OUTPUT_DIR", str(tmp_path / "whole")]))
    to_original_size, images = inference.to_original_size, []

    def interrupted(*arguments):
        images.append(arguments)
        if len(images) == 2:
            send(signal.SIGTERM)()
        return to_original_size(*arguments)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(inference, "to_original_size", interrupted)
        train(load_config(opts=opts))
    assert len(images) == 2 and len(read_metrics(tmp_path / "output")) == 2
    train(load_config(opts=opts), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "output")
    best = [load_checkpoint(tmp_path / name / "model_best.pth")["step"] for name in ("whole", "output")]
    assert best[0] == best[1]


def test_ctrl_c_in_a_terminal_leaves_the_workers_alive_until_the_step_is_saved(tiny_opts, tmp_path):
    opts = [str(word) for word in tiny_opts(DATASETS__NUM_WORKERS=2, SOLVER__MAX_ITER=100000)]
    command = [sys.executable, "-m", "detlite.cli", "train", *opts]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) as process:
        for line in process.stdout:
            if line.startswith("step 3/"):
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
        error = process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in error and "SIGINT: finishing this step" in error
    assert len(list((tmp_path / "output").glob("checkpoint_*.pth"))) == 1


def test_killed_with_a_checkpoint_half_written_it_ends_with_the_weights_of_one_that_was_not(tiny_opts):
    script = ROOT / "tests/attacks/kill_and_resume.py"
    opts = [str(word) for word in tiny_opts(SOLVER__MAX_ITER=14)]
    command = [sys.executable, script, "--config-file", ROOT / "configs/quickstart.yaml", "--kills", "2", *opts]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "weights, optimizer, hooks and metrics are equal" in run.stdout


def test_a_torn_newest_checkpoint_is_reported_and_the_one_before_it_gone_on_from(tiny_opts, tmp_path, monkeypatch):
    opts = tiny_opts(SOLVER__CHECKPOINT_PERIOD=2)
    train(load_config(opts=[*opts, "OUTPUT_DIR", str(tmp_path / "whole")]))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        in_step(patch, 4, lambda: (send(signal.SIGINT)(), send(signal.SIGINT)()))
        train(load_config(opts=opts))
    folder = tmp_path / "output"
    newest = folder / "checkpoint_0000004.pth"
    newest.write_bytes(newest.read_bytes()[:-1000])
    (folder / "checkpoint_0000006.pth.part").write_text("half")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "lo')
    train(load_config(opts=opts), resume=True)
    log = (folder / "log.txt").read_text()
    assert "checkpoint_0000004.pth: cannot be read as weights" in log
    assert "resuming from step 2" in log and "checkpoint_0000006.pth.part" in log
    assert_same_run(tmp_path / "whole", folder)
    assert not list(folder.glob("*.part"))


def test_a_full_disk_stops_the_training_with_the_last_checkpoint_intact(tiny_opts, tmp_path, monkeypatch):
    opts = tiny_opts(SOLVER__CHECKPOINT_PERIOD=2)
    train(load_config(opts=[*opts, "OUTPUT_DIR", str(tmp_path / "whole")]))
    save = hooks.CheckpointSeries.save

    def full(series, content, step):
        if step == 4:
            raise UserError("checkpoint_0000004.pth: cannot be written: No space left on device")
        return save(series, content, step)

    with monkeypatch.context() as patch, pytest.raises(UserError) as raised:
        patch.setattr(hooks.CheckpointSeries, "save", full)
        train(load_config(opts=opts))
    message = str(raised.value)
    assert "checkpoint_0000004.pth: cannot be written: No space left on device; " in message
    assert "checkpoint_0000002.pth is intact" in message
    train(load_config(opts=opts), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "output")


def test_a_step_that_is_not_finite_keeps_the_weights_before_it_and_its_batch(tiny_opts, tmp_path):
    opts = tiny_opts(SOLVER__OPTIMIZER__LR=1e30)
    with pytest.raises(UserError, match=r"not finite at step 1: .*loss_.* for the images \d+, \d+ .*nan.*lr 1e\+30"):
        train(load_config(opts=opts))
    folder = tmp_path / "output"
    state = load_checkpoint(folder / "checkpoint_0000001.pth")
    assert state["step"] == 1 and all(value.isfinite().all() for value in state["model"].values())
    assert not (folder / "model_final.pth").exists()
    report = json.loads((folder / "failed_step_0000001.json").read_text())
    assert report["step"] == 1 and report["lr"] == 1e30 and set(report["not_finite"]) <= set(report["values"])
    batch = torch.load(folder / "failed_step_0000001.pt", weights_only=True)
    assert [target["image_id"] for target in batch["targets"]] == report["image_ids"]
    assert [image.dtype for image in batch["images"]] == [torch.uint8] * 2
    with pytest.raises(UserError, match="not finite at step 1"):
        train(load_config(opts=opts), resume=True)


def test_a_mistake_in_the_data_saves_what_was_trained(tiny_opts, tmp_path, monkeypatch):
    def fail():
        raise UserError("image 7 is gone")

    in_step(monkeypatch, 3, fail)
    with pytest.raises(UserError, match="image 7"):
        train(load_config(opts=tiny_opts()))
    assert load_checkpoint(tmp_path / "output" / "checkpoint_0000003.pth")["step"] == 3


def test_a_hook_goes_on_with_its_own_state(tiny_opts, tmp_path, monkeypatch):
    class Counter:
        steps = 0

        def after_step(self):
            self.steps += 1

        def state_dict(self):
            return {"steps": self.steps}

        def load_state_dict(self, state):
            self.steps = state["steps"]

    from detlite.engine import train as train_module

    counters = []

    def build(node, trainer):
        counters.append(Counter())
        return counters[-1]

    monkeypatch.setattr(train_module.HOOKS, "build", build)
    for max_iter in (3, 6):
        cfg = load_config(opts=tiny_opts(SOLVER__MAX_ITER=max_iter, HOOKS=[{"NAME": "TensorBoardHook"}] * 2))
        train(cfg, resume=max_iter == 6)
    assert [counter.steps for counter in counters] == [3, 3, 6, 6]
