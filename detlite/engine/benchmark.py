"""How long a detector takes here, beside torchvision's with the same weights and the bare convolutions and products.

Every variant has a process of its own, so that peak memory is its own; they take turns, so that what else happens on
the machine happens to all of them.
"""

import multiprocessing
import statistics
from typing import NamedTuple

from tabulate import tabulate

from detlite.engine.benchmark_variants import VARIANTS, serve
from detlite.errors import UserError

ORDER = ("forward", "preprocess", "backbone", "RPN head", "proposals", "RPN losses", "sampling", "pooling", "box head")
ORDER += ("postprocess", "not convolution or product", "backward", "optimizer")


class Task(NamedTuple):
    """What is measured.

    Attributes:
        config: path of a YAML file, or None for the default tree.
        opts: changes to the config, (KEY, value, ...).
        imports: modules or .py files that register parts.
        mode: inference or training.
        size: (height, width) of the images.
        batch: images in a batch.
        objects: objects of an image in training.
        threads: of torch, in each process.
    """

    config: str | None = None
    opts: tuple = ()
    imports: tuple = ()
    mode: str = "inference"
    size: tuple = (600, 800)
    batch: int = 1
    objects: int = 8
    threads: int = 2


def benchmark(task, variants, rounds=5):
    """Time variants in turns.

    Args:
        task: a :class:`Task`.
        variants: names among VARIANTS; ratios are to the first.
        rounds: times that each runs, after once that does not count.

    Returns:
        dict, ready for JSON: the task, and "variants", for each {"median", "low", "high"} in seconds, "ratio",
        "peak_memory" in bytes, "stages", {name: median seconds}, and, in inference, "difference" to torchvision's
        detections, see :func:`difference`.

    Raises:
        UserError: a variant that is not known or cannot do the task.
    """
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown or rounds < 1:
        raise UserError(f"variants are {', '.join(VARIANTS)}, and rounds at least 1; got {unknown} and {rounds}")
    workers = {}
    try:
        for name in variants:
            workers[name] = _Worker(task, name)
            workers[name].ask("run")  # once that does not count
        times = {name: [] for name in variants}
        for _ in range(rounds):
            for name, worker in workers.items():
                times[name].append(worker.ask("run"))
        results = {name: _summary(times[name]) | worker.ask("about") for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.end()
    first = results[variants[0]]["median"]
    reference = results.get("torchvision", {}).get("detections")
    for result in results.values():
        result["ratio"] = result["median"] / first
        detections = result.pop("detections")
        if detections and reference and detections is not reference:
            result["difference"] = difference(detections, reference)
    return {**task._asdict(), "rounds": rounds, "variants": results}


class _Worker:
    """A process that serves one variant."""

    def __init__(self, task, name):
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, task, name), daemon=True)
        self.process.start()
        other.close()

    def ask(self, word):
        """What the process answers."""
        try:
            self.connection.send(word)
            answer = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            raise UserError(f"{self.name}: its process ended with status {self.process.exitcode}") from None
        if isinstance(answer, UserError):
            raise UserError(f"{self.name}: {answer}")
        return answer

    def end(self):
        """Let the process end."""
        self.connection.close()
        self.process.join()


def _summary(runs):
    """Of the times of every run, {stage: seconds} with "total" among them."""
    totals = [run["total"] for run in runs]
    stages = {stage: statistics.median(run[stage] for run in runs) for stage in runs[0] if stage != "total"}
    return {"median": statistics.median(totals), "low": min(totals), "high": max(totals), "stages": stages}


def difference(detections, reference):
    """How far two detectors' detections in the same images are apart.

    Each detection is compared with the reference's nearest one of its label.

    Args:
        detections, reference: for each image {"boxes": lists of four, "scores", "labels"}.

    Returns:
        {"detections", "reference_detections": how many, "score", "box": the largest differences, None if one has no
        like}.

    >>> ours = {"boxes": [[0.0, 0, 10, 10], [5, 5, 9, 9.5]], "scores": [0.5, 0.25], "labels": [1, 2]}
    >>> theirs = {"boxes": [[5.0, 5, 9, 8], [0, 0, 10, 10]], "scores": [0.5, 0.5], "labels": [2, 1]}
    >>> difference([ours], [theirs])
    {'detections': 2, 'reference_detections': 2, 'score': 0.25, 'box': 1.5}
    """
    scores, boxes = [0.0], [0.0]
    for own, other in zip(detections, reference, strict=True):
        rows = list(zip(other["boxes"], other["scores"], other["labels"], strict=True))
        for box, score, label in zip(own["boxes"], own["scores"], own["labels"], strict=True):
            distances = [
                (max(abs(a - b) for a, b in zip(box, other_box, strict=True)), abs(score - other_score))
                for other_box, other_score, other_label in rows
                if other_label == label
            ]
            nearest = min(distances, default=(None, None))
            boxes.append(nearest[0])
            scores.append(nearest[1])
    counts = (sum(len(image["scores"]) for image in images) for images in (detections, reference))
    largest = (None if None in values else max(values) for values in (scores, boxes))
    return dict(zip(("detections", "reference_detections", "score", "box"), (*counts, *largest), strict=True))


def format_result(result):
    """A result of :func:`benchmark` as two tables in Markdown: the variants, and the stages of the detectors."""
    height, width = result["size"]
    batch, threads, rounds = result["batch"], result["threads"], result["rounds"]
    changes = " ".join(
        f"{len(word)} classes" if isinstance(word, list) and key == "MODEL.CLASSES" else str(word)
        for key, word in zip(("", *result["opts"]), result["opts"], strict=False)
    )
    objects = f", {result['objects']} objects an image" if result["mode"] == "training" else ""
    title = (
        f"{result['mode']}, {height} x {width}, batch {batch}{objects}, {threads} threads, medians of {rounds} "
        f"interleaved rounds{', ' + changes if changes else ''}"
    )
    lines, stages = [], {}
    for name, row in result["variants"].items():
        times = [f"{1000 * row[key]:.0f}" for key in ("median", "low", "high")]
        lines.append([name, times[0], f"{row['ratio']:.2f}", f"{times[1]} to {times[2]}"])
        lines[-1].append(f"{row['peak_memory'] / 2**20:.0f}")
        apart = row.get("difference")
        lines[-1].append(
            f"{apart['detections']} of {apart['reference_detections']}, scores {apart['score']:.1g}, boxes "
            f"{apart['box']:.1g} px"
            if apart and apart["score"] is not None
            else "others"
            if apart
            else ""
        )
        if row["stages"]:
            stages[name] = row["stages"]
    headers = ["variant", "ms", "ratio", "from to", "peak MB", "detections against torchvision's"]
    text = f"{title}\n\n" + tabulate(lines, headers, tablefmt="github", disable_numparse=True)
    rows = [
        [stage, *(f"{1000 * times[stage]:.1f}" if stage in times else "" for times in stages.values())]
        for stage in ORDER
        if any(stage in times for times in stages.values())
    ]
    return text + "\n\n" + tabulate(rows, ["ms", *stages], tablefmt="github", disable_numparse=True)
