"""Check a config, its data, and the first steps of its training: what ``tools/check.py`` runs."""

import dataclasses
import logging
from collections import Counter

from detlite.agreement import agree_on_classes, require_model_classes
from detlite.data import concatenate
from detlite.errors import UserError, prefix_errors
from detlite.files import user_path
from detlite.logs import start_log
from detlite.preparation import check_training
from detlite.preparation.check_data import check_datasets, score_ground_truth
from detlite.writing import write_json

logger = logging.getLogger("detlite")

SHOWN = 3  # faults of one kind that are printed; check.json has more


class Findings:
    """The outcomes of all checks, printed one per line and kept for check.json."""

    def __init__(self):
        self.lines = []  # dicts: "status" (pass, warning or error), "name", "text"
        self.counts = Counter()  # outcomes by status

    def add(self, status, name, text):
        """Print and keep one outcome."""
        self.lines.append({"status": status, "name": name, "text": text})
        self.counts[status] += 1
        logger.info("%-8s%s: %s", status, name, text)

    def run(self, name, function, *args, on_error="error"):
        """Run a check, report its outcome, and return its result, or None if it raised a UserError."""
        try:
            result, text = function(*args)
        except UserError as error:
            self.add(on_error, name, str(error))
            return None
        self.add("pass", name, text)
        return result


def check(cfg, data_only=False):
    """Check a config, its data and a few training steps; the trained weights are discarded.

    Every line of the report is a pass, a warning, or an error with its remedy. The report is also written to
    OUTPUT_DIR/check.json, as {"lines": all lines, "datasets": a summary of each}, and returned.

    ``data_only`` checks only the data. If at least one check finds an error, a UserError is raised at the end.
    """
    start_log()
    findings = Findings()
    findings.add("pass", "config", f"read; IMPORTS: {', '.join(cfg.IMPORTS) or 'none'}")

    trains, tests = check_datasets(cfg)
    content = {"lines": findings.lines, "datasets": {}}
    for data in [*trains, *tests]:
        _report_dataset(findings, data)
        summary = {"faults": list(map(dataclasses.asdict, data.faults.values()))}
        if data.dataset:
            summary |= {"images": len(data.dataset), "objects": data.objects_by_class()}
        content["datasets"][data.name] = summary
    trains = [data for data in trains if data.dataset is not None]  # a data set without images is an error, see below
    tests = [data for data in tests if data.dataset is not None]
    cfg, train_dataset = _settle_classes(findings, cfg, trains, tests)
    for data in tests:
        findings.run(f"{data.name}, ground truth as predictions", score_ground_truth, cfg, data)
    if not data_only:
        _check_training(findings, cfg, train_dataset, trains)

    path = user_path(cfg.OUTPUT_DIR) / "check.json"
    with prefix_errors("OUTPUT_DIR: "):
        write_json(content, path)

    errors = findings.counts["error"]
    logger.info("%s errors, %s warnings: %s", errors, findings.counts["warning"], path)
    if errors:
        raise UserError(f"{errors} of {len(findings.lines)} checks found an error; see above")
    return content


def _report_dataset(findings, data):
    """Report the faults of a data set, and its images and objects if no fault is an error."""
    errors_before = findings.counts["error"]
    for kind, fault in data.faults.items():
        text = f"{fault.count:,} {kind}"
        if fault.remedy:
            text += f" ({fault.remedy})"
        examples = fault.examples[:SHOWN]
        if fault.count > SHOWN:
            examples.append(f"and {fault.count - SHOWN:,} more")
        status = "error" if fault.is_error else "warning"
        findings.add(status, data.name, "\n          ".join([text, *examples]))
    if data.dataset and findings.counts["error"] == errors_before:
        objects = ", ".join(f"{name} {count:,}" for name, count in data.objects_by_class().items())
        findings.add("pass", data.name, f"{len(data.dataset):,} images; objects after the transforms: {objects}")


def _settle_classes(findings, cfg, trains, tests):
    """Report whether all classes agree; return the config with MODEL.CLASSES set, and the training data set or None."""
    train_dataset = None
    if not trains:
        return cfg, None

    # After an error, the checks that follow use the values assigned before it.
    try:
        train_dataset = concatenate([data.dataset for data in trains])
        cfg = agree_on_classes(cfg, train_dataset.classes, "DATASETS.TRAIN")
        for data in tests:
            require_model_classes(cfg, data.dataset, data.name)
        findings.add("pass", "classes", ", ".join(cfg.MODEL.CLASSES))
    except UserError as error:
        findings.add("error", "classes", str(error))
    return cfg, train_dataset


def _check_training(findings, cfg, train_dataset, trains):
    """Check model, weights, precision, anchors, a few training steps and the space that they need."""
    model = findings.run("model", check_training.check_model, cfg)
    if hasattr(model, "precision_setting"):
        findings.run("precision", check_training.check_precision, model, on_error="warning")
    if model is not None and "RPN" in cfg.MODEL and trains:
        datasets = [data.dataset for data in trains]
        findings.run("anchors", check_training.check_anchors, cfg, datasets, on_error="warning")

    if model is None or not train_dataset:
        findings.add("error", "first steps", "not tried, because model or data are missing; fix the errors above")
    elif trainer := findings.run("first steps", check_training.check_step, cfg, model, train_dataset):
        findings.run("memory and disk space", check_training.check_room, cfg, trainer)
