"""The hooks in examples/ for Weights & Biases and MLflow, with stand-in modules that record the calls."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from detlite.config import load_config
from detlite.engine.train import train
from detlite.errors import UserError
from detlite.files import flatten
from detlite.registry import HOOKS

EXAMPLES = Path(__file__).parents[1] / "examples"
HOOK_NAMES = {"wandb": "WandbHook", "mlflow": "MLflowHook"}


class StandIn:
    """A module, or a run of wandb, that records the names and arguments of its calls."""

    def __init__(self, calls):
        self.calls = calls
        self.id = "run-7"

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return {"init": self, "start_run": SimpleNamespace(info=SimpleNamespace(run_id="run-7"))}.get(name)

        return call


@pytest.fixture(params=HOOK_NAMES)
def library(request):
    yield request.param
    HOOKS._obj_map.pop(HOOK_NAMES[request.param], None)
    sys.modules.pop(f"{request.param}_hook", None)


def run(library, tiny_opts, resume=False, **keys):
    keys |= {"EVALUATION__PERIOD": 2, "EVALUATION__PICTURES": 0, "SOLVER__LOG_PERIOD": 1}
    opts = tiny_opts(HOOKS=[{"NAME": HOOK_NAMES[library]}], **keys)
    train(load_config(opts=opts, imports=[str(EXAMPLES / f"{library}_hook.py")]), resume=resume)


def test_a_logger_gets_config_and_numbers_of_one_run_even_after_a_resume(library, tiny_opts, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, library, StandIn(calls))
    run(library, tiny_opts, SOLVER__MAX_ITER=2)
    first = len(calls)
    run(library, tiny_opts, SOLVER__MAX_ITER=3, resume=True)

    # The run begins once, under OUTPUT_DIR's name and with the config, and continues by its id.
    begin, id_name = {"wandb": ("init", "id"), "mlflow": ("start_run", "run_id")}[library]
    begins = [kwargs for name, _, kwargs in calls if name == begin]
    assert [kwargs[id_name] for kwargs in begins] == [None, "run-7"]
    if library == "wandb":
        assert begins[0]["name"] == "output" and begins[0]["project"] == "detlite" and begins[0]["resume"] == "allow"
        assert [kwargs["config"]["SOLVER"]["MAX_ITER"] for kwargs in begins] == [2, 3]
    else:
        assert begins[0]["run_name"] == "output"
        assert [args for name, args, _ in calls if name == "set_experiment"] == [("detlite",)] * 2
        assert ("log_artifact", (str(tmp_path / "output/config.yaml"),), {}) in calls[:first]

    # The numbers are those of metrics.jsonl.
    sent = [(args[0], kwargs["step"]) for name, args, kwargs in calls if name in ("log", "log_metrics")]
    lines = [json.loads(line) for line in (tmp_path / "output/metrics.jsonl").read_text().splitlines()]
    del sent[3]  # the resumed run repeats the last evaluation, which came after its checkpoint
    assert [step for _, step in sent] == [1, 2, 2, 3, 3] and "bbox/AP" in sent[-1][0]
    assert sent == [(flatten(line), line["step"]) for line in lines]


def test_a_step_that_fails_marks_the_run_as_failed(library, tiny_opts, monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, library, StandIn(calls))
    with pytest.raises(UserError, match="not finite"):
        run(library, tiny_opts, SOLVER__MAX_ITER=2, SOLVER__OPTIMIZER__LR=1e30)
    end = {"wandb": ("finish", (), {"exit_code": 1}), "mlflow": ("end_run", ("FAILED",), {})}[library]
    assert calls[-1] == end


def test_mlflow_gets_names_that_it_allows():
    load_config(imports=[str(EXAMPLES / "mlflow_hook.py")])
    calls = []
    hook = HOOKS.get("MLflowHook")(None)
    hook.mlflow = StandIn(calls)
    hook.record({"step": 4, "bbox": {"cat (black),AP": 0.5}})
    assert calls == [("log_metrics", ({"bbox/cat _black__AP": 0.5},), {"step": 4})]
    del HOOKS._obj_map["MLflowHook"]
