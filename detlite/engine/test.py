"""Test a detector, or score saved predictions: ``tools/test_net.py`` and ``detlite test`` call these functions."""

import logging

from detlite import distributed
from detlite.agreement import build_test_sets, list_test_sets, open_detector
from detlite.checkpoint import read_weights
from detlite.config import Config
from detlite.data import build_dataset, build_test_transforms, test_loader
from detlite.drawing import PictureWriter
from detlite.engine.environment import log_environment
from detlite.engine.validation import validation_loss
from detlite.errors import UserError, prefix_errors
from detlite.evaluation.analysis import choose_thresholds
from detlite.evaluation.evaluator import format_table
from detlite.evaluation.inference import evaluate
from detlite.files import user_path, without_nan
from detlite.guard import checking_parts
from detlite.inspection.report.write import read_run, write_report
from detlite.logs import move_log_to, start_log
from detlite.registry import EVALUATORS
from detlite.writing import claim, explain_write_errors, write_json, write_table

logger = logging.getLogger("detlite")


@distributed.in_every_process
def test(
    cfg: Config, weights: object, page: bool = False, compare: str | None = None, thresholds: object = None
) -> dict:
    """Build a config's detector, load trained weights and test it.

    Args:
        cfg: a config from :func:`detlite.config.load_config`.
        weights: a checkpoint of that detector, or any source that :func:`detlite.checkpoint.read_weights` reads.
        page: whether to write OUTPUT_DIR/report.html.
        compare: predictions file or folder of a run on the same data, to compare with on the page. Implies ``page``.
        thresholds: the goal of each class's threshold in OUTPUT_DIR/thresholds.json, see :func:`choose_thresholds`.

    Returns:
        the evaluators' results, such as ``{"bbox": {"AP": 0.78, ...}}``. They are also written to OUTPUT_DIR.

    Raises:
        UserError: the weights or the data do not fit the config.
    """
    # Mistakes in the files are reported before the test.
    others = _read_runs(cfg, compare)
    weights = read_weights(weights)

    start_log()
    log_environment(cfg.MODEL.DEVICE)
    if distributed.is_main():
        _open_results(cfg, ["predictions.json", "evaluation.json"], page or compare, thresholds, others)
    cfg, model = open_detector(cfg, weights)
    test_sets = build_test_sets(cfg)
    results = evaluate_model(cfg, model, test_sets)
    if (page or compare or thresholds) and distributed.is_main():
        _write_pages(cfg, test_sets, results, _read_runs(cfg, cfg.OUTPUT_DIR), others, page, thresholds)
    return results


def score(cfg, path, page=False, compare=None, thresholds=None):
    """Score saved predictions on DATASETS.TEST, without a model.

    Args:
        cfg: a config from :func:`detlite.config.load_config`. Its MODEL section is ignored.
        path: a JSON file of COCO results, such as a ``predictions.json``, or the folder of a run.
        page, compare, thresholds: see :func:`test`, also for the results.

    Raises:
        UserError: a file cannot be read, or the predictions do not belong to the data set.
    """
    start_log()
    log_environment("cpu")
    runs, others = _read_runs(cfg, path), _read_runs(cfg, compare)
    _open_results(cfg, ["evaluation.json"], page or compare, thresholds, runs + others)
    folder, test_sets, found = user_path(cfg.OUTPUT_DIR), list_test_sets(cfg), []
    for test_set, run in zip(test_sets, runs, strict=True):
        test_set.dataset = build_dataset(test_set.node)
        evaluators = [EVALUATORS.build(node, test_set.dataset) for node in cfg.EVALUATION.EVALUATORS]
        for evaluator in evaluators:
            if not hasattr(evaluator, "load"):
                name = type(evaluator).__name__
                raise UserError(f"EVALUATION.EVALUATORS: {name} has no load(), so it cannot score saved predictions")
            with prefix_errors(f"{run['path']}: "):
                evaluator.load(run["predictions"])
        found.append(write_results(evaluators, folder / test_set.subfolder))
    results = name_results(test_sets, found, folder)
    _write_pages(cfg, test_sets, results, runs, others, page, thresholds)
    return results


def _write_pages(cfg, test_sets, results, runs, others, page, thresholds):
    """Write the report and the thresholds of each test set, if they are wanted."""
    for test_set, run, other in zip(test_sets, runs, others, strict=True):
        if page or other:
            write_report(cfg, test_set, results, run, other)
        if thresholds:
            chosen = choose_thresholds(test_set.dataset, run["predictions"], thresholds)
            write_json(chosen, user_path(cfg.OUTPUT_DIR) / test_set.subfolder / "thresholds.json")
            rows = [[name, *numbers.values()] for name, numbers in chosen.items()]
            logger.info("%s", format_table(["class", "threshold", "precision", "recall", "f1"], rows))


def _read_runs(cfg, path):
    """Read the predictions of each test set below a run's folder; None for each if ``path`` is None."""
    return [read_run(user_path(path) / test_set.subfolder) if path else None for test_set in list_test_sets(cfg)]


def _open_results(cfg, names, page, thresholds, runs):
    """Open test_log.txt in OUTPUT_DIR, and check that the files of each test set can be written.

    A training may use the folder at the same time, so its own files are left alone. The predictions of ``runs``, from
    :func:`_read_runs`, must not be overwritten.
    """
    if thresholds not in (None, "f1") and not (isinstance(thresholds, float) and 0 < thresholds <= 1):
        raise UserError(f"thresholds: expected f1 or a precision from 0 to 1, such as 0.9; got {thresholds}")
    names = names + ["report.html"] * bool(page) + ["thresholds.json"] * bool(thresholds)
    folder = user_path(cfg.OUTPUT_DIR)
    paths = [folder / test_set.subfolder / name for test_set in list_test_sets(cfg) for name in names]
    log = folder / "test_log.txt"
    with prefix_errors("OUTPUT_DIR: "):
        claim(log, *paths, inputs=[run["path"] for run in runs if run])
        with explain_write_errors(log):
            move_log_to(log)


def evaluate_model(cfg, model, test_sets, stop=lambda: False):
    """Evaluate a model, write results, predictions and pictures to OUTPUT_DIR, and log the summaries.

    ``test_sets`` are from :func:`~detlite.agreement.build_test_sets`. ``stop`` may end the evaluation, see
    :func:`~detlite.evaluation.inference.evaluate`. The results are returned in every process, see :func:`name_results`.
    """
    found = [_evaluate_on(cfg, model, test_set, stop) for test_set in test_sets]
    return name_results(test_sets, found, user_path(cfg.OUTPUT_DIR))


def name_results(test_sets, found, folder=None):
    """Name each test set's results, such as "TITLE.bbox", the first's also "bbox". Write a list's to the folder."""
    results = dict(found[0])
    for test_set, groups in zip(test_sets, found, strict=True):
        results |= {f"{test_set.prefix}{group}": values for group, values in groups.items()}
    if folder and len(results) > len(found[0]) and distributed.is_main():
        write_json(results, folder / "evaluation.json")
    return results


def _evaluate_on(cfg, model, test_set, stop):
    """Evaluate a model on one test set, see :func:`evaluate_model`."""
    if test_set.prefix:
        logger.info("test set %s:", test_set.prefix[:-1])
    dataset, folder = test_set.dataset, user_path(cfg.OUTPUT_DIR) / test_set.subfolder
    evaluators = [EVALUATORS.build(node, dataset) for node in cfg.EVALUATION.EVALUATORS]
    pictures = PictureWriter(dataset, folder / "pictures", cfg.EVALUATION.PICTURES)
    loader = test_loader(
        dataset,
        build_test_transforms(cfg.TRANSFORMS.TEST),
        batch_size=cfg.EVALUATION.BATCH_SIZE,
        num_workers=distributed.loader_workers(cfg.DATASETS.NUM_WORKERS),
        share=distributed.share(),
        bad_image=cfg.DATASETS.BAD_IMAGE,
        pin_memory=any(parameter.is_cuda for parameter in model.parameters()),
    )
    losses = {"validation": validation_loss(model, loader, stop)} if cfg.EVALUATION.LOSS else {}
    evaluate(model, loader, [*evaluators, pictures], stop)

    def write():
        # predictions.json comes from the first evaluator that has predictions().
        for evaluator in evaluators:
            if hasattr(evaluator, "predictions"):
                write_json(evaluator.predictions(), folder / "predictions.json")
                break
        return write_results(evaluators, folder, losses)

    results = distributed.from_main(write)
    if pictures.count:
        logger.info("pictures of ground truth and detections: %s", pictures.folder)
    return results


def write_results(evaluators, folder, losses=None):
    """Write results to evaluation.json and tables to the folder ``tables``, and log each evaluator's summary.

    The results are returned, {"bbox": {"AP": 0.78, ...}, ...}, in which None stands for NaN and infinity. They include
    validation losses, {"validation": {"loss": 0.5, ...}}.
    """
    results = dict(losses or {})
    for name, values in results.items():
        words = [f"{key} {value:.4f}" for key, value in values.items()]
        logger.info("%s: %s", name, "  ".join(words))
    for evaluator in evaluators:
        with checking_parts():
            results |= evaluator.evaluate()
            summary = evaluator.summary()
        logger.info("%s", summary)
        tables = evaluator.tables() if hasattr(evaluator, "tables") else {}
        for name, rows in tables.items():
            write_table(rows, folder / "tables" / name)
    results = without_nan(results)
    write_json(results, folder / "evaluation.json")
    return results
