"""Compare the speed of a detector with torchvision's and detectron2's: python benchmarks/speed.py --help."""

import importlib.util
import itertools
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from detlite.cli import benchmark as command
from detlite.cli import run_command
from detlite.cli.arguments import KEYS_HELP
from detlite.cli.runtime import keep_freed_memory
from detlite.errors import UserError

HELP = f"""Time the detector of a config next to other libraries' detectors with the same weights.

The variants:
  torchvision   torchvision's Faster R-CNN
  detectron2    detectron2's, where it is installed
  detlite       the config's detector
  bare          nothing but the detector's convolutions and matrix products, on random numbers of the same shapes
  bare, best    the same with channels last, linear layers by oneDNN in inference, and fused SGD
  detlite bf16, and "bare, best, bf16"

Each variant runs in a separate process, and they take turns, so that other work on the machine slows down all of them.
"CPU s" is the processor time of all threads. Other work that shares the cores hardly changes it.
Images and weights are random; MODEL.ROI_HEADS.CLASS_INIT_STD 0.1 gives scores that differ. Every combination of
--modes, --sizes, --batches, --objects, --classes and --vary is measured.

{KEYS_HELP}
examples:
  %(prog)s --config-file configs/quickstart.yaml --sizes 128x128
  %(prog)s --variants torchvision detlite "detlite bf16" --modes inference --rounds 7
  %(prog)s --variants torchvision detlite --vary MODEL.RPN.POST_NMS_TOP_N_TEST 100 300 1000
"""
DEFAULT_VARIANTS = ["torchvision", "detlite", "bare", "bare, best"]
if importlib.util.find_spec("detectron2"):
    DEFAULT_VARIANTS.append("detectron2")

DETECTION_KEYS = ("boxes", "scores", "labels")

_variant = None  # of this process


def parser(prog):
    """Return the script's arguments."""
    parser = command.parser(prog, HELP)
    add = parser.add_argument
    add("--objects", metavar="O", type=int, nargs="+", default=[8], help="objects per image in training; default: 8")
    help = "numbers of classes; 0 is the config's; default: 0"
    add("--classes", metavar="C", type=int, nargs="+", default=[0], help=help)
    add("--vary", metavar="V", nargs="+", default=[], help="a config key, and the values to try")
    add(
        "--variants",
        nargs="+",
        metavar="V",
        default=DEFAULT_VARIANTS,
        help=f"what to compare; ratios are to the first; default: {', '.join(DEFAULT_VARIANTS)}",
    )
    return parser


def tasks(options):
    """Yield a :class:`~detlite.inspection.speed.Task` per combination that the command line asks for."""
    key, *values = options.vary or ["", None]
    if not values:
        raise UserError(f"--vary {key}: expected values after the key")
    lists = (command.tasks(options), options.objects, options.classes, values)
    for task, objects, classes, value in itertools.product(*lists):
        opts = task.opts
        if key:
            opts += (key, value)
        if classes:
            opts += ("MODEL.CLASSES", [f"class {number}" for number in range(1, classes + 1)])
        yield task._replace(objects=objects, opts=opts)


def run(options):
    """Compare, print the tables, and write the results."""
    from detlite.writing import write_json

    results = []
    for task in tasks(options):
        results.append(compare(task, options.variants, options.rounds))
        print(format_result(results[-1]), end="\n\n", flush=True)
        if options.json:
            write_json(results, options.json)  # after each, so that none is lost


def compare(task, variants, rounds=5):
    """Time variants in turns.

    Args:
        task: a :class:`~detlite.inspection.speed.Task`.
        variants: names from VARIANTS; ratios are to the first.
        rounds: timed runs of each, after one that does not count.

    Returns:
        dict, ready for JSON: the task, "rounds", and "variants", for each {"median", "low", "high"} in seconds,
        "ratio", "cpu", the median processor seconds of all threads, "cpu_ratio", "device", "peak_memory" in bytes, on
        CUDA "peak_gpu_memory" of tensors, "stages", {name: median seconds}, and in inference "difference" from
        torchvision's detections, as :func:`difference` returns it.

    Raises:
        UserError: an unknown variant, or one that cannot do the task.
    """
    from detlite.inspection.speed import summarize
    from variants import VARIANTS

    unknown = [name for name in variants if name not in VARIANTS]
    if unknown or rounds < 1:
        raise UserError(f"variants are {', '.join(VARIANTS)}, and rounds at least 1; got {unknown} and {rounds}")
    workers = {}
    try:
        for name in variants:
            workers[name] = Worker(name)
            workers[name].ask(prepare, task, name)
        runs = {name: [] for name in variants}
        for _ in range(rounds):
            for name, worker in workers.items():
                runs[name].append(worker.ask(run_once))
        results = {name: summarize(runs[name]) | worker.ask(describe) for name, worker in workers.items()}
        for result in results.values():
            result["cpu"] = result["stages"].pop("cpu")
    finally:
        for worker in workers.values():
            worker.end()

    # The first variant is the measure of time, torchvision of detections.
    first = dict(results[variants[0]])
    reference = results.get("torchvision", {}).get("detections")
    for result in results.values():
        result["ratio"] = result["median"] / first["median"]
        result["cpu_ratio"] = result["cpu"] / first["cpu"]
        detections = result.pop("detections")
        if detections and reference and detections is not reference:
            result["difference"] = difference(detections, reference)
    return {**task._asdict(), "rounds": rounds, "variants": results}


class Worker:
    """A process that holds one variant."""

    def __init__(self, name):
        self.name = name
        self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def ask(self, function, *arguments):
        """Return what a function returns in the process."""
        try:
            return self.pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise UserError(f"{self.name}: its process ended; is there enough memory?") from None
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from None

    def end(self):
        """End the process."""
        self.pool.shutdown()


def prepare(task, name):
    """Build the variant of this process, and run it once, which does not count."""
    import torch

    from detlite.memory import reset_peak_memory
    from variants import VARIANTS

    global _variant
    if name.startswith("detlite"):
        keep_freed_memory()  # as detlite's commands do
    torch.set_num_threads(task.threads)
    _variant = VARIANTS[name](task)
    reset_peak_memory()
    if _variant.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(_variant.device)
    _variant.run()


def run_once():
    """Run the variant of this process: {stage: seconds}. "cpu" is the processor time of all threads."""
    begin = time.process_time()
    seconds = _variant.run()
    return seconds | {"cpu": time.process_time() - begin}


def describe():
    """Return "device", "peak_memory" of this process, on CUDA "peak_gpu_memory", and in inference "detections"."""
    import torch

    from detlite.memory import peak_memory

    device = _variant.device
    about = {"device": str(device), "peak_memory": peak_memory(), "detections": None}
    if device.type == "cuda":
        about["device"] = torch.cuda.get_device_name(device)
        about["peak_gpu_memory"] = torch.cuda.max_memory_allocated(device)
    if hasattr(_variant, "detect") and not _variant.model.training:
        about["detections"] = [{key: found[key].tolist() for key in DETECTION_KEYS} for found in _variant.detect()]
    return about


def difference(detections, reference):
    """Measure how far two detectors' detections in the same images are apart.

    Each detection is compared with the nearest one of its label in the reference.

    Args:
        detections, reference: for each image {"boxes": lists of four, "scores", "labels"}.

    Returns:
        {"detections", "reference_detections": their numbers, "score", "box": the largest differences, None if a
        detection's label is not in the reference}.

    >>> ours = {"boxes": [[0.0, 0, 10, 10], [5, 5, 9, 9.5]], "scores": [0.5, 0.25], "labels": [1, 2]}
    >>> theirs = {"boxes": [[5.0, 5, 9, 8], [0, 0, 10, 10]], "scores": [0.5, 0.5], "labels": [2, 1]}
    >>> difference([ours], [theirs])
    {'detections': 2, 'reference_detections': 2, 'score': 0.25, 'box': 1.5}
    """
    largest_score = largest_box = 0.0
    has_counterpart = True
    for own, other in zip(detections, reference, strict=True):
        other_boxes, other_scores, other_labels = (np.array(other[key]) for key in DETECTION_KEYS)
        for box, score, label in zip(*(own[key] for key in DETECTION_KEYS), strict=True):
            same = other_labels == label
            if not same.any():
                has_counterpart = False
                continue
            distances = np.abs(other_boxes[same] - box).max(axis=1)
            score_distances = np.abs(other_scores[same] - score)
            nearest = np.lexsort((score_distances, distances))[0]
            largest_box = max(largest_box, distances[nearest].item())
            largest_score = max(largest_score, score_distances[nearest].item())
    return {
        "detections": sum(len(image["scores"]) for image in detections),
        "reference_detections": sum(len(image["scores"]) for image in reference),
        "score": largest_score if has_counterpart else None,
        "box": largest_box if has_counterpart else None,
    }


def format_difference(apart):
    """Return a result of :func:`difference` as text; None gives none."""
    if apart is None:
        return ""
    if apart["score"] is None:
        return "other labels"
    counts = f"{apart['detections']} of {apart['reference_detections']}"
    return f"{counts}, scores {apart['score']:.1g}, boxes {apart['box']:.1g} px"


def format_result(result):
    """Return a result of :func:`compare` as two Markdown tables: the variants, and the stages of the detectors."""
    from tabulate import tabulate

    from detlite.inspection.speed import ORDER, format_title

    rows, stages = [], {}
    for name, row in result["variants"].items():
        median, low, high = (f"{1000 * row[key]:.1f}" for key in ("median", "low", "high"))
        cpu = f"{row['cpu']:.2f}", f"{row['cpu_ratio']:.2f}"
        memory = f"{row['peak_memory'] / 2**20:.0f}"
        gpu_memory = f"{row['peak_gpu_memory'] / 2**20:.0f}" if "peak_gpu_memory" in row else ""
        apart = format_difference(row.get("difference"))
        times = median, f"{row['ratio']:.2f}", f"{low} to {high}", *cpu
        rows.append([name, *times, row["device"], memory, gpu_memory, apart])
        if row["stages"]:
            stages[name] = row["stages"]
    headers = ["variant", "ms", "ratio", "from to", "CPU s", "CPU ratio", "device", "peak MB", "GPU MB"]
    headers.append("detections against torchvision's")
    variants_table = tabulate(rows, headers, tablefmt="github", disable_numparse=True)

    rows = []
    for stage in ORDER:
        cells = [f"{1000 * times[stage]:.1f}" if stage in times else "" for times in stages.values()]
        if any(cells):
            rows.append([stage, *cells])
    stages_table = tabulate(rows, ["ms", *stages], tablefmt="github", disable_numparse=True)
    return f"{format_title(result)}\n\n{variants_table}\n\n{stages_table}"


if __name__ == "__main__":
    sys.exit(run_command(sys.modules[__name__], sys.argv[1:], "speed.py"))
