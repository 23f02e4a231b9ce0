"""What a training says: averages, early numbers, advice, TensorBoard."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from detlite.config import load_config
from detlite.engine import tensorboard
from detlite.engine.advice import advice
from detlite.engine.log import LogHook, MetricsHook
from detlite.engine.results import StepResult
from detlite.engine.train import train
from detlite.errors import UserError


def read_metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lines_are_the_averages_of_their_steps_and_the_first_step_has_its_own(tiny_opts, tmp_path):
    for name, period in (("each", 1), ("some", 3)):
        opts = tiny_opts(OUTPUT_DIR=str(tmp_path / name), SOLVER__LOG_PERIOD=period, SOLVER__MAX_ITER=5)
        train(load_config(opts=opts))
    each, some = (read_metrics(tmp_path / name) for name in ("each", "some"))
    assert [line["step"] for line in some] == [1, 3, 5]
    for name in ("loss", "loss_classifier", "gradient_norm", "rpn_foreground", "roi_background"):
        expected = [(0,), (1, 2), (3, 4)]
        means = [sum(each[step][name] for step in steps) / len(steps) for steps in expected]
        assert [line[name] for line in some] == pytest.approx(means)


@pytest.mark.parametrize("terminal", [False, True])
def test_bar_and_log_line_have_the_same_time_left_from_the_median_step(terminal, monkeypatch, capsys):
    """Steps take 90 s, 1 s, 1 s, 50 s and 1 s: 14 more take 14 s. After the first, which is slower, nothing is said."""
    monkeypatch.setattr("detlite.logs.on_terminal", lambda: terminal)
    lines = []
    monkeypatch.setattr("detlite.engine.log.logger.log", lambda level, text, *args: lines.append(text % args))
    trainer = SimpleNamespace(model=torch.nn.Linear(1, 1), max_iter=19, start=0, steps_done=0, record=lambda line: None)
    hook = LogHook(trainer, period=5)
    hook.before_train()
    for seconds in (90, 1, 1, 50, 1):
        trainer.steps_done += 1
        trainer.result = StepResult(trainer.steps_done - 1, {"loss": 1.0}, {}, 1.0, 0.1, [], seconds=seconds)
        hook.after_step(trainer.result)
    assert lines[-1].endswith("  00:14 left") and " left" not in lines[0]
    assert ("<00:14" if terminal else ", 00:14 left") in str(hook.bar)
    hook.bar.close()


def test_the_first_line_has_the_numbers_to_act_on(tiny_opts, tmp_path):
    train(load_config(opts=tiny_opts(SOLVER__MAX_ITER=1)))
    line = read_metrics(tmp_path / "output")[0]
    assert line["rpn_foreground"] + line["rpn_background"] <= 256
    assert line["roi_foreground"] + line["roi_background"] == 16  # NUM_SAMPLES
    assert 0 <= line["objects_matched"] <= 1 and 0 <= line["proposal_recall"] <= 1
    assert 0 < line["data_seconds_per_step"] < line["seconds_per_step"]
    assert 50 < line["memory_mb"] < 1e6
    assert {"lr", "gradient_norm", "bad_images"} <= set(line)


def test_anchors_that_fit_nothing_are_told_once(tiny_opts, tmp_path):
    train(load_config(opts=tiny_opts(MODEL__RPN__ANCHOR_GENERATOR__SIZES=[300, 500], SOLVER__BATCH_SIZE=10)))
    log = (tmp_path / "output" / "log.txt").read_text()
    (line,) = [line for line in log.splitlines() if "match no anchor" in line]
    assert "100% of objects match no anchor" in line and "which key to change" in line


def kinds(sums, **trainer):
    targets = [{"boxes": torch.tensor([[0.0, 0.0, 8.0, 2.0]])}]
    result = SimpleNamespace(targets=targets)
    trainer = SimpleNamespace(**{"result": result, "model": torch.nn.Identity(), "batches": [], **trainer})
    fine = {"seconds_per_step": (10, 5), "data_seconds_per_step": (1, 5), "objects_matched": (28, 40)}
    return dict(advice(trainer, fine | sums))


def test_numbers_that_are_fine_are_passed_over():
    assert kinds({"rpn_foreground": (1, 10), "roi_foreground": (1, 10)}) == {}


def test_hopeless_numbers_are_told():
    said = kinds({"objects_matched": (27, 40)})
    assert said["anchors"].startswith("32% of objects match no anchor")
    assert "`detlite check`" in said["anchors"]
    assert "no foreground was sampled in 10 images" in kinds({"rpn_foreground": (0, 10)})["rpn"]
    assert "MODEL.ROI_HEADS.MATCHER" in kinds({"roi_foreground": (0, 10)})["roi"]
    said = kinds({"objects_matched": (0, 0), "rpn_foreground": (0, 20)})
    assert list(said) == ["objects"] and "the last 20 images have no objects" in said["objects"]
    said = kinds({"data_seconds_per_step": (6, 5)}, batches=SimpleNamespace(num_workers=3))
    assert "60% of the time" in said["data"] and "(3)" in said["data"]


def test_a_few_objects_and_the_first_step_s_wait_are_no_reason():
    assert kinds({"objects_matched": (0, 19), "rpn_foreground": (0, 5)}) == {}
    assert kinds({"objects_matched": (0, 0), "rpn_foreground": (0, 19)}) == {}
    assert kinds({"seconds_per_step": (2, 1), "data_seconds_per_step": (2, 1)}) == {}


def test_metrics_are_cut_to_where_the_checkpoint_was(tmp_path):
    hook = MetricsHook(tmp_path / "metrics.jsonl")
    hook.record({"step": 1})
    state = hook.state_dict()
    hook.record({"step": 2})
    hook.load_state_dict(state)
    hook.record({"step": 2, "loss": 0.5})
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2, "loss": 0.5}]
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"st')  # a machine that lost power
    hook.load_state_dict({"bytes": 30})
    assert read_metrics(tmp_path) == [{"step": 1}]


class Writer:
    """Notes what it is given, as torch's SummaryWriter would write it."""

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.scalars = folder, purge_step, []
        writers.append(self)

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def flush(self):
        self.flushed = True


writers = []


def test_tensorboard_gets_the_numbers_of_metrics_jsonl(tiny_opts, tmp_path, monkeypatch):
    writers.clear()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    keys = {"HOOKS": [{"NAME": "TensorBoardHook"}], "EVALUATION__PERIOD": 2}
    train(load_config(opts=tiny_opts(SOLVER__MAX_ITER=3, **keys)))
    train(load_config(opts=tiny_opts(SOLVER__MAX_ITER=4, **keys)), resume=True)
    first, second = writers
    assert first.folder == str(tmp_path / "output" / "tensorboard") and first.flushed
    assert (first.purge_step, second.purge_step) == (None, 4)
    expected = []
    for line in read_metrics(tmp_path / "output"):
        numbers = [(name, value) for name, value in line.items() if not isinstance(value, dict) and name != "step"]
        for group in ("bbox",) if "bbox" in line else ():
            numbers += [(f"{group}/{name}", value) for name, value in line[group].items() if isinstance(value, float)]
        expected += [(name, value, line["step"]) for name, value in numbers]
    written = [entry for entry in first.scalars + second.scalars if "per_class" not in entry[0]]
    assert [entry for entry in written if entry in expected] == expected


def test_without_the_package_tensorboard_the_hook_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        tensorboard.TensorBoardHook(SimpleNamespace(folder=Path("folder"), start=0)).before_train()
