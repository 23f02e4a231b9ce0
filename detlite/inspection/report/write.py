"""Write OUTPUT_DIR/report.html from saved predictions and the metrics next to them."""

import logging
import math
import os
import sys
from pathlib import Path

from detlite.errors import UserError, prefix_errors, shortened
from detlite.files import flatten, read_json, read_json_lines, user_path
from detlite.inspection.report.content import report_content
from detlite.inspection.report.page import format_page
from detlite.registry import EVALUATORS
from detlite.writing import write_text

POINTS = 400  # per curve; more cannot be seen

logger = logging.getLogger("detlite")


def read_run(path):
    """Read a JSON file of COCO results, or a run's folder with ``predictions.json``, and the training's metrics in it.

    Returns a dict of the run's "name", the "path" of the predictions, the "predictions", and the "metrics", which are
    {name: [(step, value), ...]}.
    """
    path = user_path(path)
    if path.is_dir():
        path = path / "predictions.json"
    folder = Path(os.path.realpath(path)).parent  # Path.resolve may raise a RuntimeError for a loop of links
    metrics = _read_metrics(folder / "metrics.jsonl")
    return {"name": folder.name, "predictions": read_json(path), "metrics": metrics, "path": path}


def write_report(cfg, test_set, results, run, other=None):
    """Write the report of a run on a test set, an :class:`~detlite.agreement.TestSet`, to its folder in OUTPUT_DIR.

    ``run``, and ``other`` to compare with, are from :func:`read_run`. ``results`` are the evaluators' for the first.
    Predictions that do not belong to the data set are a UserError.
    """
    dataset = test_set.dataset
    run_contents = [_run_content(cfg, dataset, run, results.get(f"{test_set.prefix}bbox"))]
    if other:
        run_contents.append(_run_content(cfg, dataset, other, None))
    path = user_path(cfg.OUTPUT_DIR) / test_set.subfolder / "report.html"
    write_text(format_page(report_content(dataset, run_contents)), path)
    logger.info("report: %s, %.1f MB", path, path.stat().st_size / 1e6)


def _run_content(cfg, dataset, run, scores):
    """Return a run with its COCO scores. If ``scores`` is None, compute them from the predictions."""
    if scores is None:
        # Use the config's CocoEvaluator if it has one, otherwise one with default keys.
        nodes = [node for node in cfg.EVALUATION.EVALUATORS if node["NAME"] == "CocoEvaluator"]
        evaluator = EVALUATORS.build([*nodes, {"NAME": "CocoEvaluator"}][0], dataset)
        with prefix_errors(f"{run['path']}: "):
            evaluator.load(run["predictions"])
        scores = evaluator.evaluate()["bbox"]
    return {"name": run["name"], "predictions": run["predictions"], "metrics": run["metrics"], "scores": scores}


def _read_metrics(path):
    """Read the curves of a metrics.jsonl, or return an empty dict if there is no such file."""
    curves = {}
    for values in read_json_lines(path) if os.path.exists(path) else []:
        step = values.get("step")
        if not (type(step) is int and 0 <= step < 2**53):  # JavaScript's whole numbers
            raise UserError(f"{path}: a line has the step {shortened(step)}, expected a whole number")
        for name, value in flatten(values).items():
            if "per_class" not in name and abs(value) <= sys.float_info.max:  # also false for NaN
                curves.setdefault(name, []).append((step, value))

    # Thin out the curves to at most POINTS points.
    for name, points in curves.items():
        stride = math.ceil(len(points) / POINTS)
        curves[name] = points[::stride]
    return curves
