"""Compare the speed of two checkouts: one detection and one training step, timed in turns.

    python benchmarks/same_speed.py ../older
    python benchmarks/same_speed.py ../older --size 600x800 --pairs 31 MODEL.BACKBONE.NAME TorchvisionBackbone
    python benchmarks/same_speed.py ../older --size 768x800 --objects 1000 MODEL.BACKBONE.NAME FPN ...

"This" checkout is the one that contains this script. Each checkout runs in a separate process with the same model,
random weights and a random image, on the CPU. They take turns (this, other; other, this; ...), so that other programs
slow down both, and the ratio is taken pair by pair. Compare a checkout with itself to see the noise. Memory is the peak
of each process so far.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from same_numbers import renamed_since

THIS = Path(__file__).resolve().parents[1]
TASKS = ("detection", "training step")
NOISY = 0.06  # spread of the middle half of the ratios


class Worker:
    """A process that times one checkout.

    Args:
        root: the checkout's folder.
        threads: of torch.
        arguments: the command line of this script.
    """

    def __init__(self, root, threads, arguments):
        self.root = root
        # As in detlite's commands, a process that waits for its turn gives up its core.
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "1000"}
        command = [sys.executable, __file__, "--serve", *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=root, env=environment, **pipes)

    def ask(self, question):
        """Send a question and return the answer; each is one line of JSON."""
        print(json.dumps(question), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.root}: its process ended with status {self.process.wait()}")
        return json.loads(line)

    def end(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def serve(options):
    """Answer questions from stdin until it is closed.

    {"prepare": task} builds the model and runs the task once; {"run": true} answers its seconds, {"peak": true} the
    most memory that the process has held, in MiB.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing else that is printed may come between
    keep_freed_memory()
    import detlite

    torch.set_num_threads(options.threads)
    renamed = renamed_since(Path(detlite.__file__).parents[1])
    opts = [renamed.get(word, word) for word in options.opts]
    status = Path("/proc/self/status")
    run = None
    for line in sys.stdin:
        question = json.loads(line)
        if "prepare" in question:
            run = None  # frees the model before
            run = prepare(question["prepare"], options.size, options.objects, opts)
            run()
            answer = detlite.__file__
        elif "peak" in question:
            answer = int(status.read_text().split("VmHWM:")[1].split()[0]) // 1024
        else:
            begin = time.perf_counter()
            run()
            answer = time.perf_counter() - begin
        print(json.dumps(answer), file=answers, flush=True)


def keep_freed_memory():
    """Set malloc as detlite's commands do, by its function of this name, which has moved."""
    for name in ("detlite.cli.runtime", "detlite.engine.process"):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        module.keep_freed_memory()
        return
    raise ImportError("no module with keep_freed_memory, so the times would differ from those of detlite's commands")


def prepare(task, size, num_objects, opts):
    """Build the model that opts describe; return a function that runs the task once."""
    from detlite.config import load_config
    from detlite.modeling import build_model

    # The same model, image and objects in every process.
    torch.manual_seed(0)
    cfg = load_config(opts=["MODEL.DEVICE", "cpu", *opts])
    model = build_model(cfg)
    height, width = size
    images = [torch.randint(0, 256, (3, height, width), dtype=torch.uint8)]
    corners = torch.rand(num_objects, 2) * torch.tensor([width * 0.5, height * 0.5])
    sides = (0.1 + 0.4 * torch.rand(num_objects, 2)) * torch.tensor([width, height])
    labels = torch.randint(1, len(cfg.MODEL.CLASSES) + 1, (num_objects,))
    targets = [{"boxes": torch.cat([corners, corners + sides], dim=1), "labels": labels, "seed": 0}]
    return detection(model, images) if task == "detection" else training_step(cfg, model, images, targets)


def detection(model, images):
    """Return a function that detects once."""
    model.eval()
    convert = getattr(model, "convert_weights", None) or getattr(model, "hold_weights", None)
    if convert:
        convert()

    def run():
        with torch.inference_mode():
            model(images)

    return run


def training_step(cfg, model, images, targets):
    """Return a function that trains for one step."""
    from detlite.solver import build_optimizer

    model.train()
    optimizer = build_optimizer(cfg, model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # the weights stay, so every step does the same

    def run():
        sum(model(images, targets).values()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def compare(task, workers, pairs):
    """Time a task in two workers in turns; return the result as text."""
    for worker in workers:
        path = Path(worker.ask({"prepare": task})).resolve()
        if worker.root not in path.parents:
            sys.exit(f"{worker.root}: detlite is imported from elsewhere: {path}")
    times = {worker: [] for worker in workers}
    for pair in range(pairs):
        for worker in workers if pair % 2 == 0 else workers[::-1]:
            times[worker].append(worker.ask({"run": True}))

    # The medians of the times, and the quartiles of the ratios.
    this_times, other_times = (times[worker] for worker in workers)
    ratios = [this / other for this, other in zip(this_times, other_times, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    this_ms, other_ms = 1000 * statistics.median(this_times), 1000 * statistics.median(other_times)
    text = f"{task}: this {this_ms:.1f} ms, other {other_ms:.1f} ms; this / other, pair by pair: "
    text += f"median {middle:.3f}, quartiles {low:.3f} to {high:.3f}"
    this_peak, other_peak = (worker.ask({"peak": True}) for worker in workers)
    text += f"; peak memory: this {this_peak} MiB, other {other_peak} MiB"
    return text + ("; noisy: repeat" if high - low > NOISY else "")


def parse_size(text):
    """Return (height, width) of text such as 300x400."""
    height, _, width = text.partition("x")
    return int(height), int(width)


def main():
    """Compare two checkouts, or serve such a comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", metavar="OTHER_CHECKOUT", type=Path)
    parser.add_argument("--size", type=parse_size, default=(300, 400), help="height x width; default: 300x400")
    parser.add_argument("--objects", type=int, default=8, help="of the image in training; default: 8")
    parser.add_argument("--pairs", type=int, default=15, help="timed runs of each checkout; default: 15")
    parser.add_argument("--threads", type=int, default=2, help="of each process; default: 2")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to the default config")
    options = parser.parse_intermixed_args()
    if options.serve:
        return serve(options)
    if options.pairs < 2:
        parser.error("--pairs must be at least 2")
    workers = []
    try:
        for root in (THIS, options.other.resolve()):
            workers.append(Worker(root, options.threads, sys.argv[1:]))
        for task in TASKS:
            print(compare(task, workers, options.pairs), flush=True)
    finally:
        for worker in workers:
            worker.end()


if __name__ == "__main__":
    main()
