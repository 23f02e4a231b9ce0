"""Print the tables of docs/results.md: python benchmarks/results.py.

docs/results/animals has a folder per training, DETECTOR-LENGTH-seedN, with its metrics.jsonl and evaluation.json.
"""

import statistics
from pathlib import Path

from detlite.files import read_json

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


if __name__ == "__main__":
    for length in LENGTHS:
        print(*table(length), "", sep="\n")
