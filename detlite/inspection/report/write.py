"""The page OUTPUT_DIR/report.html, from what a test found and what lies beside it."""

import json
import logging
from pathlib import Path

from detlite.errors import UserError
from detlite.files import flatten, read_json
from detlite.inspection.report import report_content, write_page
from detlite.registry import EVALUATORS

POINTS = 400  # of a curve; more are not seen

logger = logging.getLogger("detlite")


def read_run(path):
    """Saved predictions and the metrics of the training beside them.

    Args:
        path: a JSON file of COCO results, or the folder of a run, with its ``predictions.json``.

    Returns:
        dict of "name", "predictions", "metrics", {name: [(step, value), ...]}, and "path", of the predictions.

    Raises:
        UserError: a file that cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "predictions.json"
    folder = path.resolve().parent
    metrics = _read_metrics(folder / "metrics.jsonl")
    return {"name": folder.name, "predictions": read_json(path), "metrics": metrics, "path": path}


def write_report(cfg, dataset, results, run, other=None):
    """Write the report of a run to OUTPUT_DIR.

    Args:
        cfg: the config.
        dataset: what was detected on.
        results: the evaluators' results of the run.
        run: what :func:`read_run` gave.
        other: the same of a run to compare it with.

    Raises:
        UserError: predictions that are not of the data set.
    """
    nodes = [node for node in cfg.EVALUATION.EVALUATORS if node["NAME"] == "CocoEvaluator"]
    contents = []
    for part, scores in [(run, results.get("bbox")), (other, None)][: 2 if other else 1]:
        if scores is None:
            evaluator = EVALUATORS.build(nodes[0] if nodes else {"NAME": "CocoEvaluator"}, dataset)
            try:
                evaluator.load(part["predictions"])
            except UserError as error:
                raise UserError(f"{part['path']}: {error}") from None
            scores = evaluator.evaluate()["bbox"]
        contents.append({key: part[key] for key in ("name", "predictions", "metrics")} | {"scores": scores})
    path = Path(cfg.OUTPUT_DIR) / "report.html"
    write_page(report_content(dataset, contents), path)
    logger.info("report: %s, %.1f MB", path, path.stat().st_size / 1e6)


def _read_metrics(path):
    """The curves in a metrics.jsonl, thinned out; none without one."""
    curves = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return curves
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:  # the last one of a run that was killed, or is still going on
            continue
        for name, value in flatten(values).items():
            if "per_class" not in name:
                curves.setdefault(name, []).append((values["step"], value))
    return {name: points[:: 1 + (len(points) - 1) // POINTS] for name, points in curves.items()}
