"""Time a detector and its stages on random images."""

import functools
import statistics
import time
from typing import NamedTuple

import torch
from tabulate import tabulate

from detlite.config import load_config
from detlite.errors import shortened
from detlite.memory import peak_memory, reset_peak_memory
from detlite.modeling import build_model
from detlite.solver import build_optimizer

STAGES = {
    "preprocess": ["preprocess"],
    "backbone": ["backbone.forward"],
    "RPN head": ["rpn.head.forward"],
    "proposals": ["rpn.propose"],
    "RPN losses": ["rpn.losses"],
    "sampling": ["roi_heads.sample"],
    "pooling": ["roi_heads.pooler.forward"],
    "box head": ["roi_heads.box_head.forward", "roi_heads.predictor.forward"],
    "postprocess": ["roi_heads.detect_batch"],
}
PRODUCTS = ("backbone", "RPN head", "box head")  # stages made of convolutions and matrix products
REST = "not convolution or product"  # the rest of the forward pass
ORDER = ("forward", *STAGES, REST, "backward", "optimizer")


class Task(NamedTuple):
    """A measurement to make."""

    config: str | None = None  # path of a YAML file; None is the default config
    opts: tuple = ()  # changes to the config: (KEY, value, ...)
    imports: tuple = ()  # modules or .py files that register parts
    mode: str = "inference"  # or "training"
    size: tuple = (600, 800)  # (height, width) of the images
    batch: int = 1  # images per batch
    objects: int = 8  # per image, in training
    threads: int = 2  # number of torch threads


class TimedModel:
    """A detector whose stages are timed on random images.

    The optimizer's learning rate is set to 0, so that every run computes the same. ``stages`` are {stage: methods of
    the model, such as "rpn.head.forward"}; methods that the model lacks are skipped.
    """

    def __init__(self, task, model, optimizer, num_classes, stages=STAGES):
        self.model = model.train(task.mode == "training")
        self.device = next(model.parameters()).device
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        self.images, self.targets = make_batch(task, num_classes)

        # Replace the methods of the stages with timed ones. ``owner`` becomes None if the model has no such part.
        self._seconds = None  # {stage: seconds}; None while no stage is timed
        for stage, paths in stages.items():
            for path in paths:
                *parents, method = path.split(".")
                owner = model
                for name in parents:
                    owner = getattr(owner, name, None)
                if hasattr(owner, method):
                    setattr(owner, method, self._timed(stage, getattr(owner, method)))

    def _timed(self, stage, function):
        """Wrap a function so that its time is added to a stage's time."""

        @functools.wraps(function)
        def run(*args, **kwargs):
            if self._seconds is None:
                return function(*args, **kwargs)
            begin = now(self.device)
            result = function(*args, **kwargs)
            self._seconds[stage] = self._seconds.get(stage, 0.0) + now(self.device) - begin
            return result

        return run

    def run(self):
        """Detect, or train one step, and return {stage: seconds}; "total" is the whole run."""
        run = self._train if self.model.training else self.detect
        seconds = {}
        self._seconds = seconds  # timed functions add their seconds to it
        self._timed("total", run)()
        self._seconds = None

        # In inference the forward pass is the whole run. Only training times it as "forward".
        forward = seconds.get("forward", seconds["total"])
        products = sum(seconds.get(stage, 0.0) for stage in PRODUCTS)
        seconds[REST] = forward - products

        if self.device.type != "cpu":
            # Waiting for the GPU at each stage costs time, so the total is timed again with no stage timed.
            begin = now(self.device)
            run()
            seconds["total"] = now(self.device) - begin
        return seconds

    def detect(self):
        """Return the detections in the images."""
        with torch.inference_mode():
            return self.model(self.images)

    def _train(self):
        def forward():
            return sum(self.model(self.images, self.targets).values())

        loss = self._timed("forward", forward)()
        self._timed("backward", loss.backward)()
        self._timed("optimizer", self.optimizer.step)()
        self.optimizer.zero_grad()


def now(device):
    """Wait until a device has finished its work, and return the time in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def timed_detector(task):
    """Return the :class:`TimedModel` of a task, with random weights."""
    cfg = load_config(task.config, task.opts, task.imports)
    torch.manual_seed(0)
    model = build_model(cfg)
    if task.mode == "inference":
        model.convert_weights()
    return TimedModel(task, model, build_optimizer(cfg, model), len(cfg.MODEL.CLASSES))


def make_batch(task, num_classes):
    """Return random uint8 images (3, H, W), and random targets with boxes, labels and seed."""
    generator = torch.Generator().manual_seed(0)
    height, width = task.size
    limits = torch.tensor([width, height])
    images, targets = [], []
    for seed in range(task.batch):
        images.append(torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator))

        # Boxes in the image, with 5 to 50 % of its width and height.
        corners, sizes = torch.rand(2, task.objects, 2, generator=generator)
        sizes = (0.05 + 0.45 * sizes) * limits
        corners = corners * (limits - sizes)
        labels = torch.randint(num_classes, (task.objects,), generator=generator) + 1
        targets.append({"boxes": torch.cat([corners, corners + sizes], dim=1), "labels": labels, "seed": seed})
    return images, targets


def measure(task, rounds=5):
    """Time the detector of a :class:`Task` in this process, after one untimed run.

    Returns a dict, ready for JSON: the task's values, "rounds", "device", the times of :func:`summarize`, and
    "peak_memory" in bytes; on a CUDA GPU also "peak_gpu_memory", the bytes of tensors.
    """
    torch.set_num_threads(task.threads)
    model = timed_detector(task)
    reset_peak_memory()
    model.run()

    times = summarize([model.run() for _ in range(rounds)])
    result = {**task._asdict(), "rounds": rounds, "device": str(model.device), **times, "peak_memory": peak_memory()}
    if model.device.type == "cuda":
        result["peak_gpu_memory"] = torch.cuda.max_memory_allocated(model.device)
    return result


def summarize(runs):
    """Return a dict: "median", "low" and "high" of the total seconds, and "stages" as {stage: median seconds}."""
    medians = {}
    for stage in runs[0]:
        medians[stage] = statistics.median([run[stage] for run in runs])
    totals = [run["total"] for run in runs]
    return {"median": medians.pop("total"), "low": min(totals), "high": max(totals), "stages": medians}


def format_title(result):
    """Return the settings of a :func:`measure` result in one line."""
    height, width = result["size"]
    words = [result["mode"], f"{height} x {width}", f"batch {result['batch']}"]
    if result["mode"] == "training":
        words.append(f"{result['objects']} objects per image")
    words += [f"{result['threads']} threads", f"medians of {result['rounds']} rounds"]
    for key, value in zip(result["opts"][::2], result["opts"][1::2], strict=True):
        words.append(f"{key} {value if isinstance(value, str) else shortened(value)}")
    return ", ".join(words)


def format_result(result):
    """Return a result of :func:`measure` as a title, a line with the total, and a Markdown table of the stages."""
    median, low, high = 1000 * result["median"], 1000 * result["low"], 1000 * result["high"]
    line = f"{median:.1f} ms ({low:.1f} to {high:.1f}) on {result['device']}; "
    line += f"peak memory {result['peak_memory'] / 2**20:.0f} MB"
    if "peak_gpu_memory" in result:
        line += f", on the GPU {result['peak_gpu_memory'] / 2**20:.0f} MB"
    rows = []
    for stage in ORDER:
        if stage in result["stages"]:
            seconds = result["stages"][stage]
            rows.append([stage, f"{1000 * seconds:.1f}", f"{seconds / result['median']:.0%}"])
    table = tabulate(rows, ["stage", "ms", "of the total"], tablefmt="github", disable_numparse=True)
    return f"{format_title(result)}\n{line}\n\n{table}"
