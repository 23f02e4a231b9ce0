"""Verify that a training killed at random moments by SIGKILL and resumed ends as an uninterrupted one.

    python tests/engine/kill_and_resume.py --kills 20 --workers 2 --config-file configs/quickstart.yaml \\
        SOLVER.MAX_ITER 60 SOLVER.BATCH_SIZE 2

Every other kill waits until a checkpoint is being written. Weights, optimizer and hooks must be equal bit by bit, and
metrics.jsonl line by line, except times and memory. The exit status is 0 if they are.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from detlite.checkpoint import load_checkpoint
from detlite.cli import main as detlite

KEYS = (
    "SOLVER.LOG_PERIOD 2 SOLVER.CHECKPOINT_PERIOD 5 EVALUATION.PERIOD 10 EVALUATION.LOSS true EVALUATION.BEST bbox.AP"
)


def train(arguments, log):
    """The command, in a process of its own, with what it says in a file."""
    multiprocessing.set_start_method("fork", force=True)  # of its workers: they would import torch anew
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(detlite(["train", *arguments]))


def read_metrics(folder):
    """The whole lines of metrics.jsonl."""
    path = folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def is_saving(folder, since):
    """Whether there is a file half written that is not left from before a time."""
    try:
        return any(file.stat().st_mtime > since for file in folder.glob("*.part"))
    except FileNotFoundError:  # written in the meantime
        return False


def kill(process, folder, step, inside_save, draw):
    """Kill a training once it has logged a step and, if wanted, writes a checkpoint.

    Returns:
        what it was doing, or None if it had ended by itself.
    """
    since = time.time()
    while process.is_alive() and max((line["step"] for line in read_metrics(folder)), default=0) < step:
        time.sleep(0.01)
    while inside_save and process.is_alive() and not is_saving(folder, since):
        time.sleep(0.0005)
    time.sleep(draw.random() * (0.02 if inside_save else 1.0))
    if not process.is_alive():
        return None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    if process.exitcode != -signal.SIGKILL:
        return None
    done = max((line["step"] for line in read_metrics(folder)), default=0)
    return f"step {done}" + (", writing a checkpoint" if is_saving(folder, since) else "")


def differences(first, second, path="checkpoint"):
    """Where two values of a checkpoint differ in any bit."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [path]
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return [place for key in first for place in differences(first[key], second[key], f"{path}.{key}")]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [
            place
            for number, pair in enumerate(zip(first, second, strict=True))
            for place in differences(*pair, f"{path}.{number}")
        ]
    return [] if first == second else [path]


def without_measures(value):
    """A line of metrics, or a hook's sums, without times, memory and sizes."""
    if not isinstance(value, dict):
        return value
    measures = {"seconds", "memory", "bytes", "config"}
    return {key: without_measures(item) for key, item in value.items() if not measures & {*str(key).split("_")}}


def compare(whole, killed):
    """What the folders of the two runs differ in."""
    found = []
    checkpoints = sorted({file.name for folder in (whole, killed) for file in folder.glob("*.pth")})
    for name in checkpoints:
        if not (whole / name).is_file() or not (killed / name).is_file():
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


def main():
    """Train once in peace and once under fire; compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to the config")
    options = parser.parse_intermixed_args()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["detlite.engine.train"])
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        whole, killed = Path(temporary, "whole"), Path(temporary, "killed")

        def start(folder):
            keys = [*options.opts, *KEYS.split(), "DATASETS.NUM_WORKERS", str(options.workers)]
            arguments = ["--config-file", options.config_file, "--resume", *keys, "OUTPUT_DIR", str(folder)]
            process = context.Process(target=train, args=(arguments, f"{folder}.txt"))
            process.start()
            return process

        process = start(whole)
        process.join()
        if process.exitcode:
            sys.exit(Path(f"{whole}.txt").read_text(encoding="utf-8"))
        steps = max(line["step"] for line in read_metrics(whole))
        moments, inside = [], 0
        targets = sorted(draw.randrange(steps - 5) for _ in range(options.kills))
        for number, target in enumerate(targets):
            moment = kill(start(killed), killed, target, number % 2 == 1, draw)
            moments.append(moment)
            inside += "writing" in (moment or "")
            print(f"kill {number + 1}: {moment or 'came too late'}", flush=True)
        process = start(killed)
        process.join()
        if process.exitcode:
            sys.exit(Path(f"{killed}.txt").read_text(encoding="utf-8"))
        found = compare(whole, killed)
    print(f"{sum(map(bool, moments))} kills in {steps} steps, {inside} of them while a checkpoint was being written")
    print("\n".join(found) or "weights, optimizer, hooks and metrics are equal")
    sys.exit(bool(found) or not all(moments))


if __name__ == "__main__":
    main()
