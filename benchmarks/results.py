"""Print the tables of docs/results.md and docs/swaps.md.

    python benchmarks/results.py                # AP of the trainings, and learning curves
    python benchmarks/results.py RUN            # every 100th test image of a run
    python benchmarks/results.py FILE.jsonl     # AP of the variants of a comparison
    python benchmarks/results.py DIR/compare    # the lines of such a file, from the folder that `detlite compare` wrote

A RUN has a config.yaml and predictions.json. docs/results/animals has a folder per training, DETECTOR-LENGTH-seedN,
with its metrics.jsonl and evaluation.json.
docs/results/*.jsonl have a line per training of a comparison.
"""

import json
import statistics
import sys
from collections import Counter
from pathlib import Path

from detlite.config import load_config
from detlite.data import build_dataset
from detlite.evaluation.evaluator import select, to_arrays
from detlite.evaluation.matching import UNMATCHED, match_detections
from detlite.files import read_json, read_json_lines

FOLDER = Path(__file__).parents[1] / "docs" / "results"
LENGTHS = ["800", "3epochs"]
CLASSES = ["cat", "cow", "dog", "horse", "sheep"]
COLUMNS = [*CLASSES, "mean", "COCO AP", "COCO AP50", "COCO AP75"]


def scores(run):
    """Return the columns of a run: AP by VOC's rule of each class and their mean, and COCO's."""
    results = read_json(run / "evaluation.json")
    voc, coco = results["voc"], results["bbox"]
    return [*(voc["per_class"][name] for name in CLASSES), voc["AP"], coco["AP"], coco["AP50"], coco["AP75"]]


def table(length):
    """Return the lines of a Markdown table: each run of a length, and the mean and deviation of several seeds."""
    lines = [f"| training | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for detector in ("detlite", "torchvision"):
        runs = sorted((FOLDER / "animals").glob(f"{detector}-{length}-seed*"))
        rows = [scores(run) for run in runs]
        for run, row in zip(runs, rows, strict=True):
            seed = run.name.removeprefix(f"{detector}-{length}-seed")
            lines.append(f"| {detector}, seed {seed} | {' | '.join(f'{value:.3f}' for value in row)} |")
        if len(rows) > 1:
            columns = list(zip(*rows, strict=True))
            cells = [f"{statistics.mean(column):.3f} ± {statistics.stdev(column):.3f}" for column in columns]
            lines.append(f"| **{detector}, mean** | {' | '.join(cells)} |")
    return lines


def curves(period=200):
    """Return the lines of a table: the mean loss of ``period`` steps of the long trainings, and AP after tests."""
    headers = ["steps", "loss of detlite", "loss of torchvision", "mean AP of detlite", "mean AP of torchvision"]
    lines = [f"| {' | '.join(headers)} |", "|---" * len(headers) + "|"]
    losses, tested = {}, {}  # by the period's last step, and by detector
    for detector in ("detlite", "torchvision"):
        for line in read_json_lines(FOLDER / "animals" / f"{detector}-3epochs-seed0" / "metrics.jsonl"):
            end = -(-line["step"] // period) * period
            if "loss" in line:
                losses.setdefault(end, {}).setdefault(detector, []).append(line["loss"])
            if "voc" in line:
                tested.setdefault(end, {})[detector] = f"{line['voc']['AP']:.3f} (step {line['step']})"
    for end, by_detector in losses.items():
        cells = [f"{statistics.mean(values):.3f}" for values in by_detector.values()]
        cells += [tested.get(end, {}).get(detector, "") for detector in by_detector]
        lines.append(f"| {end - period + 1} to {end} | {' | '.join(cells)} |")
    return lines


def samples(run, step=100, score=0.5, iou=0.5):
    """Return the lines of a table: the objects and detections of every ``step``-th test image of a run."""
    dataset = build_dataset(load_config(run / "config.yaml").DATASETS.TEST)
    objects, detections = to_arrays(dataset, read_json(run / "predictions.json"))
    detections = select(detections, detections.scores >= score)
    matches = match_detections(objects, detections, iou)
    is_missed = ~objects.ignored
    is_missed[matches[matches >= 0]] = False

    def names(labels):
        counts = Counter(dataset.classes[label - 1] for label in labels)
        return ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts.items())

    lines = ["| image | right | missed | wrong |", "|---" * 4 + "|"]
    for index in range(0, len(dataset), step):
        own = detections.images == index
        cells = (
            names(detections.labels[own & (matches >= 0)]),
            names(objects.labels[is_missed & (objects.images == index)]),
            names(detections.labels[own & (matches == UNMATCHED)]),
        )
        lines.append(f"| {Path(dataset.image_file(index)).stem} | {' | '.join(cells)} |")
    return lines


def finished(folder):
    """Return a JSON line per finished training of a comparison: its variant, name (seed1) and scores."""
    lines = []
    for file in sorted(folder.glob("*/seed*.json")):
        result, scores = read_json(file), read_json(file.with_suffix("") / "evaluation.json")["bbox"]
        lines.append(
            json.dumps(
                {
                    "variant": file.parent.name,
                    "run": file.stem,
                    **{name: round(scores[name], 4) for name in ("AP", "AP50", "AP75")},
                    "per_class": {name: value and round(value, 4) for name, value in scores["per_class"].items()},
                    "parameters": result["parameters"],
                }
            )
        )
    return lines


def comparison(file):
    """Return the lines of a table: the mean and deviation of each variant's seeds.

    A variant whose mean differs from the default's by at most one standard deviation, the larger of the two, is equal.
    """
    rows = {}
    for line in read_json_lines(file):
        rows.setdefault(line["variant"], {})[line["run"]] = line

    def average(runs, value):
        """Return the mean and the deviation over runs of a value, a function of a run, and their text."""
        values = list(map(value, runs.values()))
        if len(values) == 1:
            return values[0], 0, f"{values[0]:.3f}"
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        return mean, deviation, f"{mean:.3f} ± {deviation:.3f}"

    classes = list(next(iter(rows["default"].values()))["per_class"])
    headers = ["variant", "AP", "of each seed", "difference", "AP50", "AP75", *(f"AP of {name}" for name in classes)]
    lines = [f"| {' | '.join(headers)} |", "|---" * len(headers) + "|"]
    default, deviation, _ = average(rows["default"], lambda run: run["AP"])
    for variant, runs in rows.items():
        mean, own_deviation, text = average(runs, lambda run: run["AP"])
        difference = f"{round(mean - default, 3) + 0:+.3f}" if variant != "default" else ""
        if difference and abs(mean - default) <= max(deviation, own_deviation):
            difference += ", equal"
        cells = [text, ", ".join(f"{run['AP']:.3f}" for run in runs.values()), difference]
        cells += [average(runs, lambda run, name=name: run[name])[2] for name in ("AP50", "AP75")]
        cells += [average(runs, lambda run, name=name: run["per_class"][name])[2] for name in classes]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        make_lines = comparison if path.suffix == ".jsonl" else finished if path.name == "compare" else samples
        print(*make_lines(path), sep="\n")
    if sys.argv[1:]:
        sys.exit()
    for length in LENGTHS:
        print(*table(length), "", sep="\n")
    print(*curves(), sep="\n")
