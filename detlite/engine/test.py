"""Test a detector, or score saved predictions: ``tools/test_net.py`` and ``detlite test`` call these functions."""

import logging

from detlite import distributed
from detlite.agreement import build_test_dataset, build_trained
from detlite.checkpoint import read_weights
from detlite.data import build_dataset, build_test_transforms, test_loader
from detlite.drawing import PictureWriter
from detlite.engine.output_dir import open_results
from detlite.engine.validation import validation_loss
from detlite.errors import UserError
from detlite.evaluation.inference import evaluate
from detlite.files import user_path, without_nan
from detlite.guard import checking_parts
from detlite.inspection.report.write import read_run, write_report
from detlite.logs import start_log
from detlite.registry import EVALUATORS
from detlite.writing import write_json, write_table

logger = logging.getLogger("detlite")


@distributed.in_every_process
def test(cfg, weights, page=False, compare=None):
    """Build a config's detector, load trained weights and test it.

    Args:
        cfg: a config from :func:`detlite.config.load_config`.
        weights: a checkpoint of that detector, or any source that :func:`detlite.checkpoint.read_weights` reads.
        page: whether to write OUTPUT_DIR/report.html.
        compare: predictions file or folder of a run on the same data, to compare with on the page. Implies ``page``.

    Returns:
        the evaluators' results, such as ``{"bbox": {"AP": 0.78, ...}}``. They are also written to OUTPUT_DIR.

    Raises:
        UserError: the weights or the data do not fit the config.
    """
    # Mistakes in the files are reported before the test.
    other = read_run(compare) if compare else None
    weights = read_weights(weights)

    start_log()
    folder = user_path(cfg.OUTPUT_DIR)
    if distributed.is_main():
        names = ["predictions.json", "evaluation.json"] + ["report.html"] * bool(page or other)
        open_results(folder, names, [other])
    cfg, model = build_trained(cfg, weights)
    dataset = build_test_dataset(cfg)
    results = evaluate_model(cfg, model, dataset)
    if (page or other) and distributed.is_main():
        write_report(cfg, dataset, results, read_run(folder), other)
    return results


def score(cfg, path, page=False, compare=None):
    """Score saved predictions on DATASETS.TEST, without a model.

    Args:
        cfg: a config from :func:`detlite.config.load_config`. Its MODEL section is ignored.
        path: a JSON file of COCO results, such as a ``predictions.json``, or the folder of a run.
        page: whether to write OUTPUT_DIR/report.html.
        compare: predictions file or folder of a run on the same data, to compare with on the page. Implies ``page``.

    Returns:
        the evaluators' results, such as ``{"bbox": {"AP": 0.78, ...}}``. They are also written to OUTPUT_DIR.

    Raises:
        UserError: a file cannot be read, or the predictions do not belong to the data set.
    """
    start_log()
    folder = user_path(cfg.OUTPUT_DIR)
    run = read_run(path)
    other = read_run(compare) if compare else None
    names = ["evaluation.json"] + ["report.html"] * bool(page or other)
    open_results(folder, names, [run, other])
    dataset = build_dataset(cfg.DATASETS.TEST)
    evaluators = [EVALUATORS.build(node, dataset) for node in cfg.EVALUATION.EVALUATORS]
    for evaluator in evaluators:
        if not hasattr(evaluator, "load"):
            name = type(evaluator).__name__
            raise UserError(f"EVALUATION.EVALUATORS: {name} has no load(), so it cannot score saved predictions")
        try:
            evaluator.load(run["predictions"])
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    results = write_results(evaluators, folder)
    if page or other:
        write_report(cfg, dataset, results, run, other)
    return results


def evaluate_model(cfg, model, dataset, stop=lambda: False):
    """Evaluate a model, write results, predictions and pictures to OUTPUT_DIR, and log the summary.

    Args:
        dataset: a test data set with the model's classes.
        stop: see :func:`~detlite.evaluation.inference.evaluate`.

    Returns:
        the evaluators' results, in every process.
    """
    folder = user_path(cfg.OUTPUT_DIR)
    evaluators = [EVALUATORS.build(node, dataset) for node in cfg.EVALUATION.EVALUATORS]
    pictures = PictureWriter(dataset, folder / "pictures", cfg.EVALUATION.PICTURES)
    loader = test_loader(
        dataset,
        build_test_transforms(cfg.TRANSFORMS.TEST),
        batch_size=cfg.EVALUATION.BATCH_SIZE,
        num_workers=distributed.loader_workers(cfg.DATASETS.NUM_WORKERS),
        share=distributed.share(),
        bad_image=cfg.DATASETS.BAD_IMAGE,
        pin_memory=next(model.parameters()).is_cuda,
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

    Args:
        evaluators: parts of EVALUATORS.
        losses: validation losses to include in the results, {"validation": {"loss": 0.5, ...}}.

    Returns:
        all results, {"bbox": {"AP": 0.78, ...}, ...}. None stands for NaN and infinity.
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
