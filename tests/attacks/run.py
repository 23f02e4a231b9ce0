"""Attack detlite with generated faults, and name every attack that breaks a rule of verdict.py.

    python tests/attacks/run.py --count 2000 --seed 1 --jobs 2

Case K of a seed is always the same: `--seed 1 --only K` repeats it, `--seed 1 --first K` resumes a run. Cases run in
forks of this process. A failing case prints its number, rule, folder and command. The exit status is 1 if any failed.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import torch

import checkpoints
import configs
import data_folders
import images
import parts
import predictions
from detlite.cli import COMMANDS, _module
from inputs import write_inputs
from verdict import Outcome, judge

GENERATORS = {
    "configs": configs,
    "checkpoints": checkpoints,
    "data": data_folders,
    "predictions": predictions,
    "images": images,
    "parts": parts,
}


def try_case(number, options, names, good, folder):
    """Try one case, and write the outcome next to its folder."""
    draw = random.Random(f"{options.seed} {number}")
    generator = GENERATORS[names[number % len(names)]]
    outcome = judge(partial(generator.make, good, draw), folder)
    Path(f"{folder}.json").write_text(json.dumps(outcome))


def run(options, folder):
    """Try the cases, and return the number of those that failed."""
    good = folder / "good"
    write_inputs(good)
    names = options.kinds or list(GENERATORS)
    numbers = [options.only] if options.only is not None else range(options.first, options.first + options.count)
    waiting, running, endings = list(numbers)[::-1], {}, Counter()
    while waiting or running:
        while waiting and len(running) < options.jobs:
            number = waiting.pop()
            pid = os.fork()
            if pid == 0:
                try:
                    try_case(number, options, names, good, folder / str(number))
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
            running[pid] = number
        pid, status = os.wait()
        endings[_report(running.pop(pid), status, options, folder)] += 1
    statuses = ", ".join(f"status {status}: {count}" for status, count in sorted(endings.items(), key=str))
    print(f"{endings.total()} cases, {endings['failed']} failed; seed {options.seed}; {statuses}")
    return endings["failed"]


def _report(number, status, options, folder):
    """Print a failed case, remove the folder of another one, and return its exit status or "failed"."""
    path = folder / f"{number}.json"
    if status:
        print(f"{number}: the generator failed", flush=True)
        return "failed"
    outcome = Outcome(*json.loads(path.read_text()))
    path.unlink()
    if options.only is not None:
        print(outcome.text)
    if not outcome.complaints:
        shutil.rmtree(folder / str(number))
        return outcome.status
    last = outcome.text.strip().splitlines()[-1:]
    print(f"{number}: {outcome.name}: {'; '.join(outcome.complaints)}")
    print(f"  cd {folder / str(number) / 'work'}; {outcome.line[:1000]}\n  {ascii(last)[:300]}", flush=True)
    return "failed"


def main():
    """Read the command line, load detlite once, and try the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", type=int, help="number of the only case; prints its output")
    parser.add_argument("--kinds", nargs="+", choices=list(GENERATORS), help="changes what a number means")
    parser.add_argument("--folder", type=Path, help="to work in; default: a new one, kept if a case fails")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in COMMANDS:
        _module(name)
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="attacks-"))).absolute()
    started = time.monotonic()
    failed = run(options, folder)
    print(f"{time.monotonic() - started:.0f} s", flush=True)
    if not failed:
        shutil.rmtree(folder)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
