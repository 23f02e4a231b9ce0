"""What does not answer is named after a minute, and the run ends with its state saved: after the limit, or a signal."""

import ctypes
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch.distributed as dist
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from detlite.checkpoint import load_checkpoint
from detlite.cli import main
from detlite.data.datasets.shapes import ShapesDataset
from detlite.distributed import watch as module
from detlite.distributed.watch import OTHERS, Watch, waiting_for
from detlite.logs import logger
from detlite.registry import HOOKS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def said(monkeypatch):
    texts = []
    monkeypatch.setattr(logger, "warning", texts.append)
    return texts


class Ended(Exception):
    pass


@pytest.fixture
def watch(monkeypatch):
    """A watch of process 0 of 2 whose thread does not run. ``publish`` sets what process 1 publishes."""

    def end(watch, status, reason, seconds, tell=True):
        raise Ended(status, reason)

    monkeypatch.setattr(Watch, "_end", end)
    watch = Watch(30, 0, 2, dist.HashStore())

    def publish(time, **status):
        values = {"time": time, "computed": 0, "waits": "", "host": "there", "pid": 0}
        watch.store.set("status/1", json.dumps(values | status))

    watch.publish = publish
    return watch


def look_each_second(watch, seconds, publish=lambda second: None):
    """Look at the processes once a second, from now on or from the last call on."""
    begin = getattr(watch, "now", time.monotonic())
    for second in range(seconds):
        publish(second)
        watch._look(begin + second)
    watch.now = begin + seconds


def test_a_process_that_publishes_nothing_is_named_once_after_a_minute(watch, said):
    with waiting_for(OTHERS):
        watch.publish(0)
        look_each_second(watch, 59)
        assert said == []
        look_each_second(watch, 60)
    assert said == ["process 1 of 2 has not answered for 61 s; after 30 min of silence (TIMEOUT) the run ends"]


def test_after_the_limit_all_processes_get_the_reason(watch, said):
    with pytest.raises(Ended, match="process 1 of 2 has not answered for 30 min"), waiting_for(OTHERS):
        watch.publish(0)
        look_each_second(watch, 1900)
    assert watch.store.get("end") == b"process 1 of 2 has not answered for 30 min (TIMEOUT)"
    other = Watch(30, 1, 2, watch.store)
    with pytest.raises(Ended, match="process 1 of 2"):
        other._look(time.monotonic())


def test_a_process_that_computes_is_not_silent_however_long_it_takes(watch, said):
    with waiting_for(OTHERS):
        look_each_second(watch, 4000, lambda second: watch.publish(second, computed=second / 100))
    assert said == []


def test_a_process_that_waits_for_a_worker_is_named_with_it(watch, said):
    with waiting_for(OTHERS):
        look_each_second(watch, 70, lambda second: watch.publish(second, waits="loader worker 0 of 2 (process 9)"))
    assert said[0].startswith("process 1 of 2, which waits for loader worker 0 of 2 (process 9), has not")


def test_processes_that_wait_for_each_other_are_both_named(watch, said):
    with waiting_for(OTHERS):
        look_each_second(watch, 70, lambda second: watch.publish(second, waits=OTHERS))
    assert len(said) == 2 and "process 0 of 2, which waits for the other processes, has not answered" in "".join(said)


def test_the_time_in_which_the_watch_itself_was_stopped_does_not_count(watch, said):
    watch.publish(0)
    look_each_second(watch, 2)
    watch.now += 4000
    look_each_second(watch, 30)
    assert said == []


PLUGIN = """
import os, signal
from detlite.distributed import watch
from detlite.registry import HOOKS

watch.NOTICE, watch.PERIOD, watch.GRACE = 1, 0.2, 1

@HOOKS.register()
class StopProcess1:
    def __init__(self, trainer):
        self.trainer = trainer

    def before_step(self):
        if self.trainer.step == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.fixture
def two_processes(tiny_opts, tmp_path):
    """A function that starts a training in two processes, of which one stops, and returns the launcher's process."""
    (tmp_path / "stops.py").write_text(PLUGIN)
    started = []

    def start(**changes):
        opts = tiny_opts(SOLVER__MAX_ITER=100000, HOOKS=[{"NAME": "StopProcess1"}], **changes)
        opts = [value if isinstance(value, str) else json.dumps(value) for value in opts]
        command = [sys.executable, "-m", "detlite.cli", "train", "--num-gpus", "2"]
        command += ["--import", str(tmp_path / "stops.py"), *opts]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.communicate()


def wait_for_line(process, text):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return line
    raise AssertionError("".join(lines))


def test_a_stopped_process_ends_the_run_after_the_limit_with_the_reason_and_the_state(two_processes, tmp_path):
    process = two_processes(TIMEOUT=0.1)
    wait_for_line(process, "warning: process 1 of 2 has not answered for")
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert "error: process 1 of 2 has not answered for 0.1 min (TIMEOUT); the state before it is saved" in rest
    assert load_checkpoint(tmp_path / "output/checkpoint_0000003.pth")["step"] == 3


def test_a_stopped_process_does_not_block_the_end_after_sigterm(two_processes, tmp_path):
    process = two_processes()
    wait_for_line(process, "warning: process 1 of 2 has not answered")
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert list((tmp_path / "output").glob("checkpoint_*.pth"))


class HangAtStep3:
    """Locks a mutex twice: the second call never returns, and no signal interrupts it."""

    def __init__(self, trainer):
        self.trainer = trainer

    def before_step(self):
        if self.trainer.step == 3:
            print("hangs", flush=True)
            mutex = ctypes.create_string_buffer(64)
            for _ in range(2):
                ctypes.CDLL(None).pthread_mutex_lock(mutex)


class KillWorkerAtStep3:
    """Kills a loader worker, and computes while it dies."""

    def __init__(self, trainer):
        self.trainer = trainer

    def before_step(self):
        if self.trainer.step == 3:
            multiprocessing.active_children()[0].kill()
            end = time.monotonic() + 0.2
            while time.monotonic() < end:
                pass


@pytest.fixture
def quick_look(monkeypatch):
    """Let torch look for dead workers each 0.2 s, instead of 5."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


@pytest.fixture
def fork(tiny_opts, tmp_path, monkeypatch):
    """A function: trains in a fork of this process, and returns the fork and what it prints, as a function."""
    for name, seconds in {"NOTICE": 1, "PERIOD": 0.2, "GRACE": 1}.items():
        monkeypatch.setattr(module, name, seconds)
    for hook in (HangAtStep3, KillWorkerAtStep3):
        monkeypatch.setitem(HOOKS._obj_map, hook.__name__, hook)
    printed = tmp_path / "printed.txt"
    forks = []

    def run(opts):
        with open(printed, "w") as file:
            sys.stdout = sys.stderr = file
            os.dup2(file.fileno(), 2)
            sys.exit(main(["train", *opts]))

    def start(**changes):
        opts = tiny_opts(SOLVER__MAX_ITER=100000, EVALUATION__PICTURES=0, **changes)
        opts = [value if isinstance(value, str) else json.dumps(value) for value in opts]
        forks.append(multiprocessing.get_context("fork").Process(target=run, args=[opts]))
        forks[-1].start()
        return forks[-1], lambda: printed.read_text() if printed.is_file() else ""

    yield start
    for process in forks:
        process.kill()
        process.join()


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_main_thread_that_hangs_is_ended_by_a_signal_with_its_state_saved(fork, tmp_path, name):
    process, printed = fork(HOOKS=[{"NAME": "HangAtStep3"}])
    wait_until(lambda: "hangs" in printed())
    os.kill(process.pid, getattr(signal, name))
    process.join(30)
    assert process.exitcode == 143 and f"error: {name}: the step, or an evaluation, did not end" in printed()
    assert load_checkpoint(tmp_path / "output/checkpoint_0000003.pth")["step"] == 3


def test_a_stopped_loader_worker_is_named_and_does_not_block_the_end(fork, tmp_path):
    process, printed = fork(DATASETS__NUM_WORKERS=2)
    wait_until(lambda: "step 3/" in printed())
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for worker in workers:
        os.kill(int(worker), signal.SIGSTOP)
    wait_until(lambda: re.search(r"warning: loader worker \d of 2 \(process \d+\) has not answered for", printed()))
    process.terminate()
    process.join(30)
    assert process.exitcode == 143 and list((tmp_path / "output").glob("checkpoint_*.pth"))
    assert len(workers) == 2 and not any(Path(f"/proc/{worker}").exists() for worker in workers)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            "was killed, as when the machine's memory is full; lower DATASETS",
        ),
        (lambda: sys.exit(3), "ended with status 3: ShapesDataset or a transform exits instead of raising an error"),
        (lambda: os.kill(os.getpid(), signal.SIGALRM), "was ended by SIGALRM"),
    ],
    ids=["killed", "exits", "signaled"],
)
@pytest.mark.usefixtures("quick_look")
def test_a_loader_worker_that_ends_is_one_message(fork, monkeypatch, end, message):
    monkeypatch.setattr(ShapesDataset, "__getitem__", lambda dataset, index: end())
    process, printed = fork(DATASETS__NUM_WORKERS=1)
    process.join(60)
    assert process.exitcode == 1
    assert printed().splitlines()[-1].startswith(f"error: loader worker 0 {message}"), printed()
    assert "Traceback" not in printed()


@pytest.mark.usefixtures("quick_look")
def test_a_loader_worker_that_is_killed_during_a_step_is_the_same_message(fork, tmp_path):
    process, printed = fork(DATASETS__NUM_WORKERS=1, HOOKS=[{"NAME": "KillWorkerAtStep3"}])
    process.join(60)
    assert process.exitcode == 1
    assert printed().splitlines()[-1].startswith("error: loader worker 0 was killed"), printed()
    assert load_checkpoint(tmp_path / "output/checkpoint_0000003.pth")["step"] == 3


def test_a_forked_process_does_not_share_its_parents_wakeup(monkeypatch):
    with Watch(30):
        pid = os.fork()
        if not pid:
            os._exit(signal.set_wakeup_fd(-1) == -1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_outside_the_main_thread_a_watch_leaves_signals_alone():
    def enter():
        with Watch(30):
            pass

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert signal.set_wakeup_fd(-1) == -1
