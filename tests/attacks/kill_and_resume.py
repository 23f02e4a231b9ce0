"""Verify that a training that is killed at random moments and resumed ends as an uninterrupted one.

    python tests/attacks/kill_and_resume.py --kills 100 --workers 2
    python tests/attacks/kill_and_resume.py --kills 25 --signals KILL TERM HUP USR1
    python tests/attacks/kill_and_resume.py --kills 25 --processes 2

Every other kill waits until a checkpoint is being written. With --processes, torchrun restarts the processes after each
kill. The first two kills then come before the first checkpoint, in a folder that holds an earlier run. Weights,
optimizer and hooks must be equal bit by bit, and metrics.jsonl line by line, except times and memory. SIGTERM, SIGHUP
and SIGUSR1 must end the run with status 143 in 30 s. No process may be left behind. The exit status is 0 if all this is
so.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from detlite.checkpoint import load_checkpoint
from detlite.cli import main as detlite

sys.path.append(str(Path(__file__).parents[1]))
from tiny import TINY

KEYS = {
    **{"SOLVER.LOG_PERIOD": 2, "SOLVER.CHECKPOINT_PERIOD": 5},
    **{"EVALUATION.PERIOD": 10, "EVALUATION.LOSS": True, "EVALUATION.BEST": "bbox.AP", "EVALUATION.PICTURES": 0},
}


def train(arguments, log):
    """Train in this process, in a session of its own, with its output in a file."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # of its workers: they would import torch anew
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(detlite(["train", *arguments]))


class OneProcess:
    """A training in a fork of a process that has imported torch. After each kill a new fork resumes it."""

    context = multiprocessing.get_context("forkserver")

    def __init__(self, arguments, log):
        self.command = [*arguments, "--resume"], log
        self.sessions = []
        self.restart()

    def restart(self):
        """Start the training after its end."""
        self.process = self.context.Process(target=train, args=self.command)
        self.process.start()
        self.sessions.append(self.process.pid)

    def is_running(self):
        return self.process.is_alive()

    def kill(self, number, draw):
        """Send a signal, and return whether the training ended as it must."""
        os.kill(self.process.pid, number)
        self.process.join(30)
        return self.process.exitcode == (-number if number == signal.SIGKILL else 143)

    def wait(self):
        """Return the exit status of the end that is not a kill's."""
        self.process.join()
        return self.process.exitcode


class TwoProcesses:
    """A training in two processes that torchrun restarts."""

    def __init__(self, arguments, log):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [*torchrun, "--max-restarts", "1000", "-m", "detlite.cli", "train", *arguments]
        with open(log, "w", encoding="utf-8") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        self.sessions = [self.process.pid]
        self.killed = set()
        self.restart()

    def restart(self):
        """Wait for the processes that torchrun starts after a kill."""
        while self.is_running() and (len(self.ranks()) < 2 or self.killed & set(self.ranks())):
            time.sleep(0.05)

    def ranks(self):
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return Path(children).read_text().split() if self.is_running() else []

    def is_running(self):
        return self.process.poll() is None

    def kill(self, number, draw):
        """Send a signal to one of the processes, and return whether there was one."""
        ranks = self.ranks()
        self.killed |= set(ranks)
        if ranks:
            os.kill(int(draw.choice(ranks)), number)
        return bool(ranks)

    def wait(self):
        """Return the exit status."""
        return self.process.wait()


def read_metrics(folder):
    """Return the whole lines of metrics.jsonl."""
    path = folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def last_step(folder):
    return max((line["step"] for line in read_metrics(folder)), default=0)


def is_saving(folder, since):
    """Return whether a file is half written, but not by a run before a time."""
    try:
        return any(file.stat().st_mtime > since for file in folder.glob("*.part"))
    except FileNotFoundError:  # written in the meantime
        return False


def kill(job, folder, step, inside_save, number, draw):
    """Kill a training once it has logged a step and, if wanted, writes a checkpoint.

    Returns:
        (what it was doing, or None if it had ended by itself; whether it ended as it must).
    """
    since = time.time()
    while job.is_running() and last_step(folder) < step:
        time.sleep(0.01)
    while inside_save and job.is_running() and not is_saving(folder, since):
        time.sleep(0.0005)
    time.sleep(draw.random() * (0.02 if inside_save else 0.2))
    saving = is_saving(folder, since)
    begin = time.monotonic()
    if not job.is_running():
        return None, True
    is_well = job.kill(number, draw)
    doing = f"SIG{signal.Signals(number).name[3:]} at step {last_step(folder)}" + ", writing a checkpoint" * saving
    return f"{doing}; {time.monotonic() - begin:.1f} s", is_well


def differences(first, second, path="checkpoint"):
    """Return the places where two values of a checkpoint differ in any bit."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [path]
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return [place for key in first for place in differences(first[key], second[key], f"{path}.{key}")]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [place for number, pair in pairs for place in differences(*pair, f"{path}.{number}")]
    return [] if first == second else [path]


def without_measures(value):
    """Return a line of metrics, or a hook's sums, without times, memory and sizes."""
    if not isinstance(value, dict):
        return value
    measures = {"seconds", "memory", "bytes", "config"}
    return {key: without_measures(item) for key, item in value.items() if not measures & {*str(key).split("_")}}


def compare(whole, killed):
    """Return the differences between the folders of two runs.

    A kill between the last checkpoint and the removal of an older one leaves the older one.
    """
    found = []
    checkpoints = sorted(file.name for file in whole.glob("*.pth"))
    for name in checkpoints:
        if not (killed / name).is_file():
            found.append(f"{name} is in one folder only")
            continue
        contents = [without_measures(load_checkpoint(folder / name)) for folder in (whole, killed)]
        found += differences(*contents, name)
    lines = [[without_measures(line) for line in read_metrics(folder)] for folder in (whole, killed)]
    if lines[0] != lines[1]:
        found.append(f"metrics.jsonl: {len(lines[0])} and {len(lines[1])} lines, which differ")
    print(f"compared: {', '.join(checkpoints)}, and {len(lines[0])} lines of metrics.jsonl")
    steps = [line["step"] for line in lines[1] if "lr" in line]
    if steps != [1, *range(2, steps[-1], 2), steps[-1]]:
        found.append(f"the steps in metrics.jsonl are {steps}")
    return found


def left_behind(sessions, seconds=10):
    """Return the sessions that still have a process; workers notice within 5 s that their parent is gone."""
    deadline = time.monotonic() + seconds
    while sessions and time.monotonic() < deadline:
        fields = [path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat")]
        alive = {int(field[3]) for field in fields if field[0] != "Z"}
        sessions = [session for session in sessions if session in alive]
        time.sleep(0.1)
    return sessions


def attack(start, killed, options):
    """Kill a training at random moments until it has ended. Return (what each kill found, complaints)."""
    draw = random.Random(options.seed)
    job = start(killed)
    moments, complaints = [], []
    for number in range(options.kills):
        which = getattr(signal, f"SIG{draw.choice(options.signals)}")
        early = options.processes == 2 and number < 2
        step = 0 if early else last_step(killed) + draw.randrange(options.progress)
        while early and job.is_running() and not (killed / "earlier").exists():  # the earlier run's files
            time.sleep(0.01)
        moment, is_well = kill(job, killed, step, number % 2 == 1 and not early, which, draw)
        print(f"kill {number + 1}: {moment or 'came too late'}", flush=True)
        if not is_well:
            complaints.append(f"kill {number + 1} did not end the training as it must")
        moments.append(moment)
        if moment:
            job.restart()
    if job.wait():
        sys.exit(Path(f"{killed}.txt").read_text(encoding="utf-8"))
    complaints += [f"session {session} has a process left" for session in left_behind(job.sessions)]
    return moments, complaints


def main():
    """Train once in peace and once under fire; compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", help="default: a tiny detector")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--signals", nargs="+", default=["KILL"], choices=["KILL", "TERM", "HUP", "USR1"])
    parser.add_argument("--processes", type=int, default=1, choices=[1, 2])
    parser.add_argument("--progress", type=int, default=8, help="steps between two kills, at most")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to the config")
    options = parser.parse_intermixed_args()
    OneProcess.context.set_forkserver_preload(["detlite.engine.train"])
    with tempfile.TemporaryDirectory() as temporary:
        whole, killed = Path(temporary, "whole"), Path(temporary, "killed")
        keys = {} if options.config_file else {**TINY, "SOLVER.MAX_ITER": 10 * options.kills}
        keys |= {**dict(zip(options.opts[::2], options.opts[1::2], strict=True)), **KEYS}
        keys |= {"DATASETS.NUM_WORKERS": options.workers}
        words = [word if isinstance(word, str) else json.dumps(word) for pair in keys.items() for word in pair]
        words += ["--config-file", options.config_file] if options.config_file else []

        def start(folder, *more):
            job = OneProcess if options.processes == 1 else TwoProcesses
            return job([*words, "OUTPUT_DIR", str(folder), *more], f"{folder}.txt")

        if options.processes == 2:  # an earlier run in the same folder
            start(killed, "SOLVER.MAX_ITER", "1").wait()
        if start(whole).wait():
            sys.exit(Path(f"{whole}.txt").read_text(encoding="utf-8"))
        moments, complaints = attack(start, killed, options)
        complaints += compare(whole, killed)
        steps = last_step(whole)
    inside = sum("writing" in (moment or "") for moment in moments)
    print(f"{sum(map(bool, moments))} kills in {steps} steps, {inside} of them while a checkpoint was being written")
    print("\n".join(complaints) or "weights, optimizer, hooks and metrics are equal")
    sys.exit(bool(complaints) or not all(moments))


if __name__ == "__main__":
    main()
