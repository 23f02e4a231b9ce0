"""Whole runs from a config: what ``tools/train_net.py`` and ``tools/test_net.py`` do, for scripts to call."""

import functools
import logging
from pathlib import Path

import torch

from detlite import distributed
from detlite.checkpoint import agree_on_pixels, load_weights, read_weights, weights_in
from detlite.config import override
from detlite.config.explain import explain, format_difference
from detlite.config.load import load_config_text
from detlite.data import build_dataset, build_train_datasets, build_transforms, test_loader
from detlite.distributed import launcher
from detlite.engine.assembly import add_hooks, build_trainer, check_best, find_state, restore
from detlite.engine.output import open_output, start_log, write_json, write_table
from detlite.engine.steps import describe_threads, plan_steps
from detlite.engine.validation import validation_loss
from detlite.errors import UserError
from detlite.evaluation.inference import Pictures, evaluate
from detlite.inspection.report.write import read_run, write_report
from detlite.modeling import build_model
from detlite.registry import EVALUATORS

logger = logging.getLogger("detlite")


@distributed.in_every_process
def train(cfg, resume=False, adapt=lambda model: model):
    """Train the detector that a config describes, and test it.

    Args:
        cfg: what :func:`detlite.config.load_config` returned.
        resume: whether to go on from the newest whole checkpoint in ``cfg.OUTPUT_DIR``, if there is one.
        adapt: model, with its initial weights -> the model that is trained in its place.

    Returns:
        the evaluators' results, such as ``{"bbox": {"AP": 0.78, ...}}``; they are in OUTPUT_DIR, too.

    Raises:
        UserError: a config that does not fit its data, damaged files, a full disk, a loss that is not finite.
        KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came; the state after the step that was under way is saved.
    """
    folder = Path(cfg.OUTPUT_DIR)
    start_log()
    resume = resume or launcher.remembers(f"began {folder}")  # torchrun started these processes anew
    path, state = find_state(folder) if resume else (None, None)
    weights = read_weights(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS and not state else None  # OUTPUT_DIR may be moved
    dataset = build_train_datasets(cfg.DATASETS.TRAIN)
    cfg = agree_on_classes(cfg, dataset.classes, "DATASETS.TRAIN")
    max_iter = plan_steps(cfg.SOLVER, dataset, distributed.count())
    if state or weights:
        cfg = agree_on_pixels(cfg, weights or weights_in(state, path), exact=bool(state))
    test_dataset = build_test_dataset(cfg)  # its mistakes are told before the training, not after
    check_best(cfg, test_dataset)
    logger.info("%s", describe_threads(cfg.DATASETS.NUM_WORKERS))
    torch.manual_seed(cfg.SEED)
    model = build_model(cfg, initialize=not state)
    if weights:
        logger.info("%s", load_weights(model, weights, min_match=cfg.MODEL.MIN_WEIGHTS_MATCH))
    elif not state and any(not parameter.requires_grad for parameter in model.parameters()):
        logger.warning("MODEL.WEIGHTS is empty, but some layers are frozen: they stay random (see BACKBONE.FREEZE_AT)")
    del weights  # not kept in memory while training
    trainer = build_trainer(cfg, adapt(model), dataset, state["step"] if state else 0, max_iter)
    evaluation = add_hooks(trainer, cfg, folder, functools.partial(run_evaluation, cfg, trainer.model, test_dataset))
    if state:
        restore(trainer, path, state, cfg.SOLVER)
        _tell_changes(cfg, state["config"], str(path))
    keep = bool(state)
    del state
    distributed.wait_for_all()  # they may be reading weights from there
    if distributed.is_main():
        open_output(folder, keep)  # not before all that can be wrong was looked at: it moves earlier files aside
        (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
        launcher.remember(f"began {folder}")
    trainer.train()
    return evaluation.finish()


def _tell_changes(cfg, text, source):
    """Log what a config has other than that of the checkpoint which a run goes on from."""
    try:
        changes = format_difference(explain(load_config_text(text, source, imports=cfg.IMPORTS)), explain(cfg))
    except UserError:  # that of another version
        return
    if changes:
        logger.warning("warning: the run goes on with another config than before:\n%s", changes)


@distributed.in_every_process
def test(cfg, weights, page=False, compare=None):
    """Test the detector that a config describes with trained weights.

    Args:
        cfg: what :func:`detlite.config.load_config` returned.
        weights: a checkpoint of that detector, or anything else that :func:`detlite.checkpoint.read_weights` takes.
        page: whether to write OUTPUT_DIR/report.html, too.
        compare: predictions on the same data, a file or a run's folder, that the page shows beside; it implies one.

    Returns:
        the evaluators' results, such as ``{"bbox": {"AP": 0.78, ...}}``; they are in OUTPUT_DIR, too.

    Raises:
        UserError: weights or data that do not fit the config.
    """
    other = read_run(compare) if compare else None  # its mistakes are told before the test, not after
    weights = read_weights(weights)
    start_log()
    folder = Path(cfg.OUTPUT_DIR)
    if distributed.is_main():
        open_output(folder, keep=True)
    cfg, model = build_trained(cfg, weights)
    dataset = build_test_dataset(cfg)
    results = run_evaluation(cfg, model, dataset)
    if (page or other) and distributed.is_main():
        write_report(cfg, dataset, results, read_run(folder), other)
    return results


def build_trained(cfg, weights):
    """The detector that a config describes, with trained weights.

    Args:
        cfg: what :func:`detlite.config.load_config` returned.
        weights: what :func:`detlite.checkpoint.read_weights` returned; all that the detector has must be among them.

    Returns:
        the config, with the weights' classes and pixels where it sets none, and the model.
    """
    if weights.classes:
        cfg = agree_on_classes(cfg, weights.classes, weights.source)
    cfg = agree_on_pixels(cfg, weights)
    model = build_model(cfg, initialize=False)  # all is loaded, or an error
    logger.info("%s", load_weights(model, weights, complete=True))
    if hasattr(model, "convert_weights"):
        model.convert_weights()
    return cfg, model


def build_test_dataset(cfg):
    """DATASETS.TEST, whose classes must be the model's."""
    dataset = build_dataset(cfg.DATASETS.TEST)
    require_model_classes(cfg, dataset)
    return dataset


def require_model_classes(cfg, dataset):
    """Refuse a DATASETS.TEST whose classes are not the model's."""
    if list(dataset.classes) != list(cfg.MODEL.CLASSES):
        same = sorted(dataset.classes) == sorted(cfg.MODEL.CLASSES)
        raise UserError(
            f"DATASETS.TEST: its classes are {list(dataset.classes)}, the model's are {list(cfg.MODEL.CLASSES)}"
            + (
                ": the same in another order, which CLASSES of a data set that has that key decides"
                if same
                else "; data to test on must name the same classes, but need not hold objects of each"
            )
        )


def run_evaluation(cfg, model, dataset, stop=lambda: False):
    """Evaluate a model on a data set, write results, predictions and pictures to OUTPUT_DIR, and log the summary.

    Args:
        cfg: the config.
        model: the detector.
        dataset: its classes are the model's.
        stop: see :func:`~detlite.evaluation.inference.evaluate`.
    """
    folder = Path(cfg.OUTPUT_DIR)
    evaluators = [EVALUATORS.build(node, dataset) for node in cfg.EVALUATION.EVALUATORS]
    pictures = Pictures(dataset, folder / "pictures", cfg.EVALUATION.PICTURES)
    loader = test_loader(
        dataset,
        build_transforms(cfg.TRANSFORMS.TEST),
        batch_size=cfg.EVALUATION.BATCH_SIZE,
        num_workers=cfg.DATASETS.NUM_WORKERS,
        share=distributed.share(),
        bad_image=cfg.DATASETS.BAD_IMAGE,
    )
    losses = {"validation": validation_loss(model, loader, stop)} if cfg.EVALUATION.LOSS else {}
    evaluate(model, loader, [*evaluators, pictures], stop)

    def write():
        for evaluator in evaluators:
            if hasattr(evaluator, "predictions"):
                write_json(evaluator.predictions(), folder / "predictions.json")
                break
        return report(evaluators, folder, losses)

    results = distributed.from_main(write)
    if pictures.count:
        logger.info("pictures of ground truth beside detections: %s", pictures.folder)
    return results


def score(cfg, path, page=False, compare=None):
    """Score saved predictions on DATASETS.TEST, without a model.

    Args:
        cfg: what :func:`detlite.config.load_config` returned; MODEL has no say.
        path: a JSON file of COCO results, such as a ``predictions.json``, or the folder of a run.
        page, compare: see :func:`test`.

    Returns:
        the evaluators' results, as :func:`test` gives them; they are in OUTPUT_DIR, too.

    Raises:
        UserError: a file that cannot be read, or predictions that are not of the data set.
    """
    start_log()
    open_output(Path(cfg.OUTPUT_DIR), keep=True)
    run, other = read_run(path), read_run(compare) if compare else None
    dataset = build_dataset(cfg.DATASETS.TEST)
    evaluators = [EVALUATORS.build(node, dataset) for node in cfg.EVALUATION.EVALUATORS]
    for evaluator in evaluators:
        if not hasattr(evaluator, "load"):
            raise UserError(f"EVALUATION.EVALUATORS: {type(evaluator).__name__} has no load(), so it scores no files")
        try:
            evaluator.load(run["predictions"])
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    results = report(evaluators, Path(cfg.OUTPUT_DIR))
    if page or other:
        write_report(cfg, dataset, results, run, other)
    return results


def report(evaluators, folder, losses=None):
    """Log the evaluators' summaries; write their results to evaluation.json and their tables into ``tables``.

    Args:
        evaluators: parts of EVALUATORS.
        folder: OUTPUT_DIR.
        losses: results that are there already, {"validation": {"loss": 0.5, ...}}.
    """
    results = losses or {}
    for name, values in results.items():
        logger.info("%s: %s", name, "  ".join(f"{key} {value:.4f}" for key, value in values.items()))
    for evaluator in evaluators:
        results |= evaluator.evaluate()
        logger.info("%s", evaluator.summary())
        for name, rows in getattr(evaluator, "tables", dict)().items():
            write_table(rows, folder / "tables" / name)
    write_json(results, folder / "evaluation.json")
    return results


def agree_on_classes(cfg, classes, source):
    """The config with MODEL.CLASSES set to a data set's names, if no layer set them; else they must be the same."""
    if cfg.MODEL.sources["CLASSES"] == "default":
        return override(cfg, {"MODEL.CLASSES": list(classes)}, source)
    if list(cfg.MODEL.CLASSES) != list(classes):
        raise UserError(
            f"{cfg.MODEL.sources['CLASSES']}: MODEL.CLASSES is {list(cfg.MODEL.CLASSES)}, but the classes of {source} "
            f"are {list(classes)}; leave MODEL.CLASSES out to take those"
        )
    return cfg
