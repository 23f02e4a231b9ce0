"""Write OUTPUT_DIR/report.html from saved predictions and the metrics next to them."""

import json
import logging
from pathlib import Path

from detlite.errors import UserError
from detlite.files import flatten, read_json
from detlite.inspection.report.content import report_content
from detlite.inspection.report.page import format_page
from detlite.registry import EVALUATORS

POINTS = 400  # per curve; more cannot be seen

logger = logging.getLogger("detlite")


def read_run(path):
    """Read saved predictions and the metrics of the training next to them.

    Args:
        path: a JSON file of COCO results, or a run's folder with ``predictions.json``.

    Returns:
        dict of "name", "predictions", "metrics", {name: [(step, value), ...]}, and "path" of the predictions.

    Raises:
        UserError: a file cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "predictions.json"
    folder = path.resolve().parent
    metrics = _read_metrics(folder / "metrics.jsonl")
    return {"name": folder.name, "predictions": read_json(path), "metrics": metrics, "path": path}


def write_report(cfg, dataset, results, run, other=None):
    """Write the report of a run on a data set to OUTPUT_DIR.

    Args:
        cfg, dataset, results: the config, the test data, and the evaluators' results of the run.
        run: what :func:`read_run` returned.
        other: the same for a run to compare with, or None.

    Raises:
        UserError: predictions that are not of the data set.
    """
    run_contents = [_run_content(cfg, dataset, run, results.get("bbox"))]
    if other:
        run_contents.append(_run_content(cfg, dataset, other, None))
    path = Path(cfg.OUTPUT_DIR) / "report.html"
    path.write_text(format_page(report_content(dataset, run_contents)), encoding="utf-8")
    logger.info("report: %s, %.1f MB", path, path.stat().st_size / 1e6)


def _run_content(cfg, dataset, run, scores):
    """Return a run for :func:`report_content`; without COCO's scores, its predictions are scored here."""
    if scores is None:
        nodes = [node for node in cfg.EVALUATION.EVALUATORS if node["NAME"] == "CocoEvaluator"]
        evaluator = EVALUATORS.build(nodes[0] if nodes else {"NAME": "CocoEvaluator"}, dataset)
        try:
            evaluator.load(run["predictions"])
        except UserError as error:
            raise UserError(f"{run['path']}: {error}") from None
        scores = evaluator.evaluate()["bbox"]
    return {"name": run["name"], "predictions": run["predictions"], "metrics": run["metrics"], "scores": scores}


def _read_metrics(path):
    """Read the curves in a metrics.jsonl, at most POINTS each; none if there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    curves = {}
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:  # the last line of a run that was killed, or that still runs
            continue
        for name, value in flatten(values).items():
            if "per_class" not in name:
                curves.setdefault(name, []).append((values["step"], value))
    return {name: points[:: 1 + (len(points) - 1) // POINTS] for name, points in curves.items()}
