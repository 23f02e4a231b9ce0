"""A look at all that a training needs, before the training: what ``tools/check.py`` does, for scripts to call."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
from tabulate import tabulate

from detlite.agreement import agree_on_classes, require_model_classes
from detlite.data import concatenate
from detlite.errors import UserError
from detlite.files import write_json
from detlite.logs import start_log
from detlite.preparation.check_data import check_datasets, score_ground_truth
from detlite.preparation.check_training import (
    check_anchors,
    check_disk,
    check_memory,
    check_model,
    check_step,
    check_weights,
)

logger = logging.getLogger("detlite")

SHOWN = 3  # faults of a kind that are printed; check.json has more


class Findings:
    """Prints a line for everything that was looked at, and keeps them for check.json.

    Attributes:
        lines: list of {"status": pass, warning or error, "name", "text"}.
    """

    def __init__(self):
        self.lines = []

    def add(self, status, name, text):
        """Print and keep one line."""
        self.lines.append({"status": status, "name": name, "text": text})
        logger.info("%s", f"{status:8}{name}: {text}")

    def attempt(self, name, function, *args, otherwise="error"):
        """What a function returns, after a line with it; None, after a line with the reason, if that is a UserError."""
        try:
            result = function(*args)
        except UserError as error:
            self.add(otherwise, name, str(error))
            return None
        self.add("pass", name, str(result))
        return result

    def count(self, status):
        """How many lines there are of a status."""
        return sum(line["status"] == status for line in self.lines)


def check(cfg, data_only=False):
    """Look at a config's data, and try out what a training with it would do; nothing is trained.

    Every line of the report is a pass, a warning, or an error with what to do about it. OUTPUT_DIR/check.json has them
    all.

    Args:
        cfg: what :func:`detlite.config.load_config` returned.
        data_only: whether to stop after the data.

    Returns:
        what is in check.json: {"lines", "datasets"}.

    Raises:
        UserError: at least one error was found; the message says how many.
    """
    start_log()
    findings = Findings()
    findings.add("pass", "config", f"read, with IMPORTS {', '.join(cfg.IMPORTS) or 'of nothing'}")
    datasets = check_datasets(cfg)
    for data in datasets:
        _report_faults(findings, data)
    cfg, dataset = _agree(findings, cfg, datasets)
    test = datasets[-1]
    if test.dataset and test.perfect:
        skipped = len(test.perfect) < len(test.dataset)  # bad images, told above, whose objects count as missed
        otherwise = "warning" if skipped else "error"
        findings.attempt("ground truth as predictions", score_ground_truth, cfg, test, otherwise=otherwise)
    if not data_only:
        sizes = [data.box_sizes for data in datasets[:-1] if data.dataset]
        _check_training(findings, cfg, dataset, np.concatenate(sizes or [np.empty((0, 2))]))
    content = {"lines": findings.lines, "datasets": {data.name: _summary(data) for data in datasets}}
    folder = Path(cfg.OUTPUT_DIR)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(content, folder / "check.json")
    except OSError as error:
        raise UserError(f"OUTPUT_DIR: cannot write to {folder}: {error.strerror}") from None
    if any(data.dataset for data in datasets):
        _print_classes(datasets)
    errors, warnings = findings.count("error"), findings.count("warning")
    logger.info("%s errors, %s warnings: %s", errors, warnings, folder / "check.json")
    if errors:
        raise UserError(f"{errors} of {len(findings.lines)} checks found an error; see above")
    return content


def _report_faults(findings, data):
    """Lines about one data set."""
    for kind, fault in data.faults.items():
        examples = "".join(f"\n          {text}" for text in fault.examples[:SHOWN])
        more = f"\n          and {fault.count - SHOWN:,} more" if fault.count > SHOWN else ""
        remedy = f" ({fault.remedy})" if fault.remedy else ""
        text = f"{fault.count:,} {kind}{remedy}{examples}{more}"
        findings.add("error" if fault.is_error else "warning", data.name, text)
    if data.dataset:
        errors = any(fault.is_error for fault in data.faults.values())
        text = f"{len(data.dataset):,} images, {data.counts.sum():,} objects of {len(data.dataset.classes)} classes"
        if not errors:
            findings.add("pass", data.name, text)


def _agree(findings, cfg, datasets):
    """The config with its classes settled, and the data set to train on, or None."""

    def settle():
        nonlocal cfg, dataset
        dataset = concatenate([data.dataset for data in trains])
        cfg = agree_on_classes(cfg, dataset.classes, "DATASETS.TRAIN")
        if test.dataset:
            require_model_classes(cfg, test.dataset)
        return ", ".join(cfg.MODEL.CLASSES)

    *trains, test = datasets
    trains = [data for data in trains if data.dataset]
    dataset = None
    if trains:
        findings.attempt("classes", settle)
    return cfg, dataset


def _check_training(findings, cfg, dataset, box_sizes):
    """Lines about what comes after the data."""
    weights = None
    if cfg.MODEL.WEIGHTS:
        weights = findings.attempt("weights", check_weights, cfg)
    model = findings.attempt("model", check_model, cfg, weights)
    if model and "RPN" in cfg.MODEL and len(box_sizes):
        findings.attempt("anchors", check_anchors, cfg, model, box_sizes, otherwise="warning")
    if not model or not dataset:
        findings.add("error", "two steps", "not tried: it needs a model and data; mend what is named above")
        return
    step = findings.attempt("two steps", check_step, cfg, model, dataset)
    if step:
        findings.attempt("memory", check_memory, cfg, model)
        findings.attempt("disk space", check_disk, cfg, step)


def _summary(data):
    """What check.json says of a data set."""
    if not data.dataset:
        return {"faults": [dataclasses.asdict(fault) for fault in data.faults.values()]}
    return {
        "images": len(data.dataset),
        "objects": dict(zip(data.dataset.classes, data.counts.tolist(), strict=True)),
        "faults": [dataclasses.asdict(fault) for fault in data.faults.values()],
    }


def _print_classes(datasets):
    """A table of how many objects of each class there are."""
    read = [data for data in datasets if data.dataset]
    names = dict.fromkeys(name for data in read for name in data.dataset.classes)
    counts = [dict(zip(data.dataset.classes, data.counts.tolist(), strict=True)) for data in read]
    rows = [[name, *(count.get(name, "-") for count in counts)] for name in names]
    logger.info("%s", tabulate(rows, ["objects of", *(data.name for data in read)]))
