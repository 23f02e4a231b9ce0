"""A resumed run does what its command line says, and its log lists what became of each change."""

import json

import pytest
import torch

from detlite.checkpoint import load_checkpoint
from detlite.config import load_config
from detlite.engine.hooks import EvaluationHook
from detlite.engine.train import train
from detlite.errors import UserError
from detlite.registry import EVALUATORS, LR_SCHEDULERS


def read_metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def stopped_run(tiny_opts, tmp_path):
    """Train two steps, and return the checkpoint's path and a function that resumes for two more with changed keys."""
    few = {"EVALUATION__PICTURES": 0, "DATASETS__TEST": {"NAME": "ShapesDataset", "IMAGE_SIZE": 64, "NUM_IMAGES": 1}}
    train(load_config(opts=tiny_opts(SOLVER__MAX_ITER=2, **few)))

    def resume(**changes):
        return train(load_config(opts=tiny_opts(**{"SOLVER__MAX_ITER": 4, **few, **changes})), resume=True)

    return tmp_path / "output" / "checkpoint_0000002.pth", resume


def test_changed_settings_of_the_optimizer_take_effect_and_are_listed(stopped_run, capsys):
    path, resume = stopped_run
    before = load_checkpoint(path)
    resume(SOLVER__OPTIMIZER__LR=1e-30, SOLVER__OPTIMIZER__WEIGHT_DECAY=0.25, SOLVER__LR_SCHEDULER__GAMMA=0.5)
    after = load_checkpoint(path.with_name("checkpoint_0000004.pth"))
    assert [line["lr"] for line in read_metrics(path.parent) if "lr" in line] == [0.001, 0.001, 1e-30, 1e-30]
    for name, value in before["model"].items():
        assert torch.allclose(after["model"][name], value, rtol=0, atol=1e-25), name
    assert [group["weight_decay"] for group in after["optimizer"]["param_groups"]] == [0.25, 0.25]
    printed = capsys.readouterr().out
    assert "warning: the config has changed. From step 3 on, the new values apply:" in printed
    for key in ("LR\n", "WEIGHT_DECAY\n"):
        assert f"SOLVER.OPTIMIZER.{key}" in printed
    assert "weights come from the checkpoint" not in printed


def test_another_optimizer_is_refused_with_both_names(stopped_run):
    path, resume = stopped_run
    message = rf"SOLVER.OPTIMIZER.NAME: AdamW cannot use the state that SGD left in {path}; resume with SGD, or train"
    with pytest.raises(UserError, match=message):
        resume(SOLVER__OPTIMIZER__NAME="AdamW")
    assert path.is_file()


def test_keys_of_initial_weights_are_said_to_have_no_effect(stopped_run, capsys):
    _, resume = stopped_run
    resume(SOLVER__MAX_ITER=2, MODEL__RPN__HEAD__INIT_STD=0.5)
    assert "keys that only set the initial ones have no effect" in capsys.readouterr().out


def test_another_number_of_threads_is_warned_of(stopped_run, capsys, monkeypatch):
    _, resume = stopped_run
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    resume(SOLVER__MAX_ITER=2)
    assert "warning: torch computed with 1 threads before, and now with 2: sums" in capsys.readouterr().out


def test_the_best_value_of_another_result_does_not_count():
    def hook(best):
        return EvaluationHook(None, 1, None, best=best)

    first = hook("bbox.AP")
    first.state |= {"evaluated": 4, "value": 0.9, "step": 2, "waited": 1}
    for best, value in (("bbox.AP", 0.9), ("validation.loss", None)):
        second = hook(best)
        second.load_state_dict(first.state_dict())
        assert (second.state["evaluated"], second.state["value"]) == (4, value)


def test_a_schedule_that_gives_nan_is_named_and_the_weights_before_it_are_saved(tiny_opts, tmp_path):
    @LR_SCHEDULERS.register()
    class EndsInNaN:
        def __init__(self, max_iter):
            self.last = max_iter - 1

        def __call__(self, step):
            return float("nan") if step == self.last else 1.0

    opts = tiny_opts(SOLVER__MAX_ITER=2, SOLVER__LR_SCHEDULER={"NAME": "EndsInNaN"})
    with pytest.raises(UserError, match="SOLVER.LR_SCHEDULER: EndsInNaN returned nan at step 1; expected a finite"):
        train(load_config(opts=opts))
    assert load_checkpoint(tmp_path / "output/checkpoint_0000001.pth")["step"] == 1


def test_a_result_that_is_nan_is_undefined_and_a_later_one_is_best(tiny_opts, tmp_path):
    values = [float("nan"), float("inf"), 0.5, 0.25]

    @EVALUATORS.register()
    class Given:
        def __init__(self, dataset):
            pass

        def reset(self):
            pass

        def process(self, targets, detections):
            pass

        def evaluate(self):
            return {"given": {"value": values[0]}}

        def summary(self):
            return f"value {values.pop(0)}"

    evaluation = {"EVALUATION__PERIOD": 1, "EVALUATION__BEST": "given.value"}
    opts = tiny_opts(
        SOLVER__MAX_ITER=4, EVALUATION__PICTURES=0, EVALUATION__EVALUATORS=[{"NAME": "Given"}], **evaluation
    )
    train(load_config(opts=opts))
    assert load_checkpoint(tmp_path / "output/model_best.pth")["step"] == 3
    lines = [line["given"]["value"] for line in read_metrics(tmp_path / "output") if "given" in line]
    assert lines == [None, None, 0.5, 0.25]


def test_a_resumed_average_of_the_weights_is_the_same_and_is_evaluated_and_saved(tiny_opts, tmp_path, monkeypatch):
    few = {"EVALUATION__PICTURES": 0, "DATASETS__TEST": {"NAME": "ShapesDataset", "IMAGE_SIZE": 64, "NUM_IMAGES": 1}}
    evaluated = []
    monkeypatch.setattr("detlite.engine.train.evaluate_model", lambda cfg, model, *_: evaluated.append(model) or {})

    def run(folder, steps, resume=False):
        opts = tiny_opts(SOLVER__MAX_ITER=steps, SOLVER__EMA_DECAY=0.5, OUTPUT_DIR=str(tmp_path / folder), **few)
        train(load_config(opts=opts), resume=resume)
        state = load_checkpoint(tmp_path / folder / f"checkpoint_{steps:07d}.pth")
        return state["model"], load_checkpoint(tmp_path / folder / "model_final.pth")["model"]

    weights, average = run("whole", 4)
    run("parts", 2)
    assert_same_weights(run("parts", 4, resume=True)[1], average)
    assert_same_weights(evaluated[0].state_dict(), average)
    assert any(not torch.equal(average[name], weights[name]) for name in average)


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("content", [{"model": {"x": torch.zeros(1)}}, {"step": "2", "config": ""}, torch.zeros(2), {}])
def test_a_file_that_is_no_training_state_is_named(tiny_opts, tmp_path, content):
    path = tmp_path / "output" / "checkpoint_0000002.pth"
    path.parent.mkdir()
    torch.save(content, path)
    with pytest.raises(UserError, match=f"--resume: {path} is no training state: its step or its config is missing"):
        train(load_config(opts=tiny_opts()), resume=True)


def test_a_state_with_a_damaged_entry_is_named(stopped_run):
    path, resume = stopped_run
    torch.save({**load_checkpoint(path), "optimizer": 5}, path)
    with pytest.raises(UserError, match=f"{path}: not a training state of the detector that the config describes"):
        resume()
