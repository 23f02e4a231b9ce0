"""Runs in several processes, really started: torchrun and --num-gpus, with gloo on this CPU."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
import torch

from detlite import distributed
from detlite.checkpoint import load_checkpoint
from detlite.cli import main
from detlite.config import load_config
from detlite.distributed import launcher
from detlite.engine.test import test as run_test
from detlite.engine.train import train
from detlite.errors import UserError
from detlite.signals import EndedBySignal

HOOKS = '''
import os, signal
from pathlib import Path
import torch
from detlite.registry import HOOKS

@HOOKS.register()
class SaveFirstGradients:
    """Writes the gradients that the optimizer receives at step 0.

    Args:
        path: the file.
    """

    def __init__(self, trainer, *, path: str = ""):
        self.trainer, self.path = trainer, path

    def before_train(self):
        self.trainer.optimizer.register_step_pre_hook(self.save)

    def save(self, optimizer, args, kwargs):
        if self.trainer.step == 0 and os.environ.get("RANK", "0") == "0":
            torch.save({name: p.grad for name, p in self.trainer.model.named_parameters()}, self.path)

@HOOKS.register()
class KillProcess1:
    """Kills process 1 before a step.

    Args:
        steps: the step of each start.
    """

    def __init__(self, trainer, *, steps: list[int] = (4,)):
        self.trainer, self.steps = trainer, steps

    def before_step(self):
        start = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
        if os.environ["RANK"] == "1" and [self.trainer.step] == list(self.steps[start : start + 1]):
            os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "some_hooks.py"
    path.write_text(HOOKS)
    return str(path)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def opts_of(tiny_opts, **changes):
    """Options as words, for a command line."""
    return [value if isinstance(value, str) else json.dumps(value) for value in tiny_opts(**changes)]


def test_two_and_four_processes_train_and_test_as_one(tiny_opts, tmp_path, plugin, capfd):
    """One batch of 4; 4 passes of 1; 2 processes of 2; 4 of 1: one gradient, one course of the losses, one evaluation.

    The quotas of the samplers are always full here: 64 px give 384 anchors, and every image 50 proposals and more.
    """

    def opts(name, **changes):
        return opts_of(
            tiny_opts,
            OUTPUT_DIR=str(tmp_path / name),
            HOOKS=[{"NAME": "SaveFirstGradients", "PATH": str(tmp_path / f"{name}.pt")}],
            MODEL__BACKBONE__NORM="FrozenBatchNorm",
            MODEL__RPN__SAMPLER__NUM_SAMPLES=32,
            MODEL__RPN__MIN_SIZE=1,
            MODEL__RPN__NMS__IOU=1.0,
            MODEL__ROI_HEADS__BOX_HEAD__DROPOUT=0,
            MODEL__ROI_HEADS__SCORE_THRESHOLD=0.0,
            SOLVER__BATCH_SIZE=4,
            SOLVER__MAX_ITER=20,
            SOLVER__OPTIMIZER__LR=0.01,
            **changes,
        )

    train(load_config(opts=opts("one"), imports=[plugin]))
    train(load_config(opts=opts("passes", SOLVER__ACCUMULATION=4), imports=[plugin]))
    assert main(["train", "--num-gpus", "2", "--import", plugin, *opts("two")]) == 0
    assert main(["train", "--num-gpus", "4", "--import", plugin, *opts("four")]) == 0
    assert capfd.readouterr().out.count("training on 20 images") == 4  # each run's log was printed once

    gradients = {name: load_checkpoint(tmp_path / f"{name}.pt") for name in ("one", "passes", "two", "four")}
    losses = {name: [line["loss"] for line in metrics(tmp_path / name)] for name in gradients}
    for name in ("passes", "two", "four"):
        for key, expected in gradients["one"].items():
            assert torch.linalg.norm(gradients[name][key] - expected) <= 1e-5 * torch.linalg.norm(expected), key
        assert losses[name] == pytest.approx(losses["one"], rel=1e-3)
    assert len(losses["two"]) == 20 and losses["two"][-1] != losses["two"][0]
    one = load_checkpoint(tmp_path / "one/model_final.pth")["model"]
    for name in ("two", "four"):
        for key, value in load_checkpoint(tmp_path / name / "model_final.pth")["model"].items():
            assert torch.allclose(value, one[key], atol=1e-4), key

    cfg = load_config(tmp_path / "two/config.yaml", ["OUTPUT_DIR", str(tmp_path / "again")], imports=[plugin])
    run_test(cfg, tmp_path / "two/model_final.pth")  # 5 images in one process, where two had 3 and 2
    for file in ("predictions.json", "evaluation.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert len(json.loads((tmp_path / "again/predictions.json").read_text())) > 5


def test_a_process_that_is_killed_ends_the_run_and_the_reason_is_told(tiny_opts, plugin, capfd):
    hooks = [{"NAME": "KillProcess1"}]
    assert main(["train", "--num-gpus", "2", "--import", plugin, *opts_of(tiny_opts, HOOKS=hooks)]) == 1
    assert "error: process 1 of 2 was ended by SIGKILL" in capfd.readouterr().err


TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def train_with_restarts(restarts, plugin, opts):
    """Train in two processes that torchrun restarts, and return their output."""
    torchrun = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts)]
    command = [*torchrun, "-m", "detlite.cli", "train", "--import", plugin, *opts]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_a_run_that_torchrun_restarts_ends_with_the_weights_of_one_that_was_not_killed(tiny_opts, tmp_path, plugin):
    """It is killed twice before the first checkpoint, in a folder that holds an earlier run, and once after it."""
    train(load_config(opts=tiny_opts(SOLVER__MAX_ITER=1)))
    earlier = (tmp_path / "output/model_final.pth").read_bytes()
    hooks = [{"NAME": "KillProcess1", "STEPS": [0, 0, 5]}]
    printed = train_with_restarts(3, plugin, opts_of(tiny_opts, HOOKS=hooks, SOLVER__CHECKPOINT_PERIOD=3))
    # Process 0 may have had the time to save step 5 when it lost process 1.
    assert re.search("resuming from step [35],", printed)
    assert earlier in [file.read_bytes() for file in (tmp_path / "output/earlier").glob("*/model_final.pth")]

    train_with_restarts(0, plugin, opts_of(tiny_opts, OUTPUT_DIR=str(tmp_path / "whole")))
    losses = [[(line["step"], line["loss"]) for line in metrics(tmp_path / name)] for name in ("output", "whole")]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    weights = [load_checkpoint(tmp_path / name / "model_final.pth")["model"] for name in ("output", "whole")]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_file_that_torchrun_reads_is_whole_or_missing(interrupted, tmp_path, monkeypatch):
    # torchrun ends, instead of starting the processes anew, if it reads half a file.
    def write_half(data, file):
        file.write("{")
        file.flush()
        raise EndedBySignal(signal.SIGTERM)

    def run(options):
        raise ValueError(options)

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    if interrupted:
        monkeypatch.setattr(json, "dump", write_half)
    with pytest.raises(EndedBySignal if interrupted else ValueError):
        launcher.run_recorded(run, "some options")
    assert (tmp_path / "error.json").exists() == (not interrupted)
    if not interrupted:
        assert "some options" in json.loads((tmp_path / "error.json").read_text())["message"]["message"]


MEET = """
import os, signal, time
from pathlib import Path
import torch
from detlite.distributed import launcher

rank = int(os.environ["RANK"])
counts = [Path(__file__).with_name(f"counts_{number}") for number in range(2)]
launcher.meet()
with counts[rank].open("a") as file:
    file.write(os.environ["TORCHELASTIC_RESTART_COUNT"])
start = len(counts[rank].read_text())
if start < 3:
    while rank == 0 or len(counts[0].read_text()) < start:
        time.sleep(0.05)  # process 0 waits until its launcher stops it
    os.kill(os.getpid(), signal.SIGKILL)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_machines_that_count_restarts_differently_meet_after_each(tmp_path):
    """A launcher counts only the restarts for a process of its machine: the other machine's count stays 0."""
    (tmp_path / "meet.py").write_text(MEET)
    counts = [tmp_path / f"counts_{rank}" for rank in range(2)]
    for file in counts:
        file.touch()
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        endpoint = f"localhost:{probe.getsockname()[1]}"
    machine = [*TORCHRUN, "--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--max-restarts", "2"]
    command = [*machine, str(tmp_path / "meet.py")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in "12"]
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert [file.read_text() for file in counts] == ["000", "012"]


THREADS = """
import atexit, contextlib, os, signal
from pathlib import Path
from detlite.registry import HOOKS

@atexit.register
def name_threads():
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since it was listed
            names.append((task / "comm").read_text().strip())
    Path(__file__).with_name(f"threads_{os.environ['RANK']}").write_text(" ".join(names))

@HOOKS.register()
class SignalProcess1:
    \"""Sends a signal to process 1.

    Args:
        number: the signal's number; 0 for none.
    \"""

    def __init__(self, trainer, *, number: int = 0):
        self.number = number

    def before_step(self):
        if os.environ["RANK"] == "1" and self.number:
            os.kill(os.getpid(), self.number)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a process's threads are named in Linux's /proc")
@pytest.mark.parametrize("number", [0, signal.SIGTERM, signal.SIGINT])
def test_no_thread_of_the_group_is_left_when_the_interpreter_ends(tiny_opts, tmp_path, number):
    # Such a thread may ask for the interpreter while that is taken apart, and then the process dies by SIGABRT.
    plugin = tmp_path / "threads.py"
    plugin.write_text(THREADS)
    hooks = [{"NAME": "SignalProcess1", "NUMBER": int(number)}]
    opts = opts_of(tiny_opts, SOLVER__MAX_ITER=3, HOOKS=hooks)
    assert (main(["train", "--num-gpus", "2", "--import", str(plugin), *opts]) == 0) == (number == 0)
    steps = [line["step"] for line in metrics(tmp_path / "output")]
    assert steps == ([1] if number else [1, 2, 3])
    for rank in range(2):
        assert "gloo" not in (tmp_path / f"threads_{rank}").read_text()


def test_two_processes_train_on_the_cpu_of_a_machine_with_a_gpu(tiny_opts, tmp_path, capfd):
    """torch's default group would have the GPU's backend alone, which cannot reduce tensors on the CPU."""
    claims_a_gpu = tmp_path / "claims_a_gpu.py"
    claims_a_gpu.write_text(
        "import torch\n"
        "torch.cuda.is_available = lambda: True\n"
        "torch.accelerator.current_accelerator = lambda check_available=False: torch.device('cuda')\n"
    )
    opts = opts_of(tiny_opts, SOLVER__MAX_ITER=1)
    assert main(["train", "--num-gpus", "2", "--import", str(claims_a_gpu), *opts]) == 0, capfd.readouterr().err


@pytest.mark.parametrize("device", ["cuda", "auto", "cuda:0", "cpu"])
def test_the_group_has_a_backend_for_each_device_that_it_reduces_on(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    backends = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend=None, **_: backends.append(backend))
    launcher.meet(distributed._take_device(device, 0, 1))
    assert backends == ["gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"]


def test_processes_divide_the_cores_and_listen_on_the_loopback_interface_only(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda number: {0, 2, 3, 5, 6, 7, 9}, raising=False)
    environments, listening = [], []

    class Process:
        returncode = 0

        def __init__(self, command, env, **options):
            environments.append(env)
            with open("/proc/net/tcp") as file:
                addresses = [line.split()[1] for line in file if line.split()[3] == "0A"]  # listening
            listening.extend(address for address in addresses if address.endswith(f":{int(env['MASTER_PORT']):04X}"))

        def poll(self):
            return 0

        def kill(self):
            pass

    monkeypatch.setattr(subprocess, "Popen", Process)
    assert launcher.launch(["train"], 3) == 0
    assert [env["RANK"] for env in environments] == ["0", "1", "2"]
    assert {env["OMP_NUM_THREADS"] for env in environments} == {"2"}  # 7 cores, 3 processes
    assert environments[0]["GLOO_SOCKET_IFNAME"] == "lo"
    assert len(listening) == 3 and all(address.startswith("0100007F:") for address in listening)


def test_processes_run_no_modules_of_the_current_folder_but_those_in_imports(tiny_opts, booby_trapped, capfd):
    (booby_trapped / "own_parts.py").write_text("print('own parts of', __file__, flush=True)\n")
    opts = opts_of(tiny_opts, IMPORTS="[own_parts.py]", SOLVER__MAX_ITER=-1)
    assert main(["train", "--num-gpus", "2", *opts]) == 1
    out, err = capfd.readouterr()
    # The first process to fail ends the other one, perhaps before its imports.
    assert out.count(f"own parts of {booby_trapped}/own_parts.py") in (1, 2)
    assert err == "error: command line: SOLVER: MAX_ITER must be at least 0, got -1\n"


def test_what_all_processes_find_wrong_is_printed_once(tiny_opts, capfd):
    opts = opts_of(tiny_opts, SOLVER__BATCH_SIZE=3)
    assert main(["train", "--num-gpus", "2", *opts]) == 1
    assert capfd.readouterr().err == (
        "error: SOLVER.BATCH_SIZE is 3, the images of a step over all processes; it must divide evenly into "
        "2 processes x 1 pass (SOLVER.ACCUMULATION), such as 2 or 4\n"
    )


@pytest.mark.parametrize(("cores", "processes", "expected"), [(2, 1, 1), (16, 1, 8), (64, 1, 8), (16, 4, 2), (1, 1, 1)])
def test_auto_workers_are_half_of_a_processs_cores(cores, processes, expected, monkeypatch):
    monkeypatch.setattr(distributed, "usable_cores", lambda: cores)
    monkeypatch.setattr(distributed, "count", lambda: processes)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert distributed.loader_workers("auto") == expected
    assert distributed.loader_workers(3) == 3


def test_a_folder_for_sockets_with_a_long_path_is_one_message_and_no_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed.tempfile, "tempdir", str(tmp_path / ("x" * 72)))
    with pytest.raises(UserError, match="^TMPDIR is too long: .* allow 71; choose another folder, or no workers"):
        distributed.loader_workers(1)
    assert distributed.loader_workers(0) == 0
