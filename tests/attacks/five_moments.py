"""Break a training's surroundings at five moments, and verify that it ends with one message and a whole checkpoint.

    python tests/attacks/five_moments.py
    python tests/attacks/five_moments.py --faults "full disk" "closed stdout" --moments "at the end"

A full disk is a small tmpfs, and for a read-only folder the training lacks a capability of root, so both need Linux and
root. Each training must end in 90 s with status 0, or with status 1 and one message, and without a traceback. It
leaves no process, and its newest checkpoint can be read. A closed stdout must not end it. The exit status is 1 if
anything was otherwise.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

MOMENTS = ["at the start", "before the first checkpoint", "in a checkpoint", "in an evaluation", "at the end"]
FAULTS = ["full disk", "read-only folder", "closed stdout", "stopped rank", "killed worker"]
KEYS = {"SOLVER.MAX_ITER": 20, "SOLVER.CHECKPOINT_PERIOD": 5, "EVALUATION.PERIOD": 10, "TIMEOUT": 0.1}
WITHOUT_PERMISSION = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]


def strike(fault, folder):
    """Let a fault happen in this process."""
    if fault == "full disk":
        with open(folder / "filler", "wb", buffering=0) as file:
            while file.write(bytes(4096)):  # ends with an OSError
                pass
    elif fault == "read-only folder":
        os.chmod(folder / "output", 0o500)
    elif fault == "closed stdout":
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
    elif fault == "stopped rank" and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGSTOP)
    for worker in multiprocessing.active_children()[:1]:  # with "killed worker"
        worker.kill()


def plan(fault, moment, folder):
    """Register a hook, and replace functions of this process, so that the fault happens once, at the moment."""
    from detlite.distributed import watch
    from detlite.evaluation import inference
    from detlite.registry import HOOKS

    watch.NOTICE, watch.PERIOD = 1, 0.2
    left = [moment]

    def reach(reached):
        if reached in left:
            left.clear()
            with contextlib.suppress(OSError):  # the disk is full now
                strike(fault, folder)

    @HOOKS.register()
    class Moments:
        def __init__(self, trainer):
            self.trainer = trainer

        def before_step(self):
            if self.trainer.step == 1 and fault in ("stopped rank", "killed worker"):  # there are none earlier
                reach(MOMENTS[0])
            if self.trainer.step == 3:
                reach(MOMENTS[1])

        def after_step(self):
            if self.trainer.step == 9 and fault == "stopped rank":  # process 0 saves
                reach(MOMENTS[2])

        def after_train(self):
            reach(MOMENTS[4])

    def save(content, file):
        if isinstance(content, dict) and content.get("step") == 10 and not isinstance(file, str):
            reach(MOMENTS[2])
        return torch_save(content, file)

    def detect(*arguments):
        reach(MOMENTS[3])
        return inference_detect(*arguments)

    torch_save, torch.save = torch.save, save
    inference_detect, inference._detect = inference._detect, detect
    if fault not in ("stopped rank", "killed worker"):
        reach(MOMENTS[0])


@contextlib.contextmanager
def small_disk(folder, fault):
    """Mount a tmpfs of 3 MB over a folder, if the fault needs it."""
    if fault == "full disk":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=True)
    yield
    if fault == "full disk":
        subprocess.run(["umount", folder], check=True)


def attack(fault, moment, folder):
    """Train with a fault at a moment. Return what came of it in words, and complaints."""
    from tiny import TINY

    keys = TINY | KEYS | {"HOOKS": [{"NAME": "Moments"}], "OUTPUT_DIR": str(folder / "output")}
    keys["DATASETS.NUM_WORKERS"] = 2 if fault == "killed worker" else 0
    words = [word if isinstance(word, str) else json.dumps(word) for pair in keys.items() for word in pair]
    words += ["--import", __file__] + ["--num-gpus", "2"] * (fault == "stopped rank")
    command = WITHOUT_PERMISSION if fault == "read-only folder" else []
    command = [*command, sys.executable, "-m", "detlite.cli", "train", *words]
    environment = os.environ | {"FAULT": fault, "MOMENT": moment, "FOLDER": str(folder)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}
    (folder / "output").mkdir()
    begin = time.monotonic()
    job = subprocess.Popen(command, start_new_session=True, **pipes)
    timer = threading.Timer(90, os.killpg, [job.pid, signal.SIGKILL])
    timer.start()
    text, _ = job.communicate()
    timer.cancel()
    return judge(fault, moment, folder / "output", job, text, time.monotonic() - begin)


def judge(fault, moment, output, job, text, seconds):
    """Return the outcome of a training in words, and complaints about it."""
    from detlite.checkpoint import load_checkpoint

    errors = [line for line in text.splitlines() if line.startswith("error:")]
    checkpoints = sorted(output.glob("checkpoint_*.pth"), key=lambda path: path.stat().st_mtime)
    complaints = [word for word in ("Traceback", "Exception ignored", "Logging error") if word in text]
    if job.returncode != len(errors) or job.returncode > 1 or (fault == "closed stdout" and job.returncode):
        complaints.append(f"status {job.returncode} with {len(errors)} messages")
    if moment not in MOMENTS[:2] and not checkpoints:
        complaints.append("no checkpoint")
    for path in [*checkpoints[-1:], *output.glob("model_final.pth")]:
        try:
            load_checkpoint(path)
        except Exception as error:
            complaints.append(f"{path.name}: {error}")
    if subprocess.run(["pgrep", "--session", str(job.pid)], capture_output=True).stdout:
        os.killpg(job.pid, signal.SIGKILL)
        complaints.append("left a process")
    words = f"status {job.returncode} in {seconds:.0f} s, {checkpoints[-1].name if checkpoints else 'no checkpoint'}"
    return "\n    ".join([words, *errors, *(text.splitlines()[-12:] if complaints else ())]), complaints


def main():
    """Try each fault at each moment, and print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", nargs="+", default=FAULTS, choices=FAULTS)
    parser.add_argument("--moments", nargs="+", default=MOMENTS, choices=MOMENTS)
    options = parser.parse_args()
    failed = 0
    for fault in options.faults:
        for moment in options.moments:
            with tempfile.TemporaryDirectory() as folder, small_disk(folder, fault):
                outcome, complaints = attack(fault, moment, Path(folder))
            failed += bool(complaints)
            print(f"{fault} {moment}: {'; '.join(complaints) or 'as it must'}; {outcome}", flush=True)
    print(f"{len(options.faults) * len(options.moments)} trainings, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[1]))
    main()
elif "MOMENT" in os.environ:
    plan(os.environ["FAULT"], os.environ["MOMENT"], Path(os.environ["FOLDER"]))
