"""Whole runs from a config: what ``tools/train_net.py`` and ``tools/test_net.py`` do, for scripts to call."""

import logging
from pathlib import Path

import torch

from detlite.checkpoint import agree_on_pixels, load_checkpoint, load_weights, pixels_of, read_weights
from detlite.config import override
from detlite.data import build_dataset, build_train_datasets, build_transforms, test_loader, training_loader
from detlite.engine import distributed
from detlite.engine.hooks import CheckpointHook, EvaluationHook, LogHook
from detlite.engine.inference import Pictures, evaluate
from detlite.engine.output import cut_metrics, open_output, read_json, start_log, write_json, write_table
from detlite.engine.plan import plan_steps
from detlite.engine.trainer import Trainer
from detlite.errors import UserError
from detlite.modeling import build_model
from detlite.registry import EVALUATORS, HOOKS
from detlite.solver import build_lr_scheduler, build_optimizer

logger = logging.getLogger("detlite")


@distributed.in_every_process
def train(cfg, resume=False, adapt=lambda model: model):
    """Train the detector that a config describes, and test it.

    Args:
        cfg: what :func:`detlite.config.load_config` returned.
        resume: whether to go on from the last checkpoint in ``cfg.OUTPUT_DIR``.
        adapt: model, with its initial weights -> the model that is trained in its place.

    Returns:
        the evaluators' results, such as ``{"bbox": {"AP": 0.78, ...}}``; they are in OUTPUT_DIR, too.

    Raises:
        UserError: a config that does not fit its data, damaged files, a loss that is not finite.
    """
    folder = Path(cfg.OUTPUT_DIR)
    checkpoint = folder / "checkpoint.pth"
    if resume and not checkpoint.is_file():
        raise UserError(f"--resume: there is no checkpoint to go on from: {checkpoint}")
    source = checkpoint if resume else cfg.MODEL.WEIGHTS
    weights = read_weights(source) if source else None  # now: what OUTPUT_DIR holds may be moved aside
    start_log()
    dataset = build_train_datasets(cfg.DATASETS.TRAIN)
    cfg = agree_on_classes(cfg, dataset.classes, "DATASETS.TRAIN")
    solver = cfg.SOLVER
    max_iter = plan_steps(solver, dataset, distributed.count())
    if weights:
        cfg = agree_on_pixels(cfg, weights, exact=resume)
    test_dataset = build_test_dataset(cfg)  # its mistakes are told before the training, not after
    torch.manual_seed(cfg.SEED)
    model = build_model(cfg)
    if weights and not resume:
        logger.info("%s", load_weights(model, weights, min_match=cfg.MODEL.MIN_WEIGHTS_MATCH))
    del weights  # not kept in memory while training
    model = adapt(model)
    optimizer = build_optimizer(cfg, model)
    if not (resume or cfg.MODEL.WEIGHTS) and any(not p.requires_grad for p in model.parameters()):
        logger.warning("MODEL.WEIGHTS is empty, but some layers are frozen: they stay random (see BACKBONE.FREEZE_AT)")
    start = restore(checkpoint, model, optimizer) if resume else 0
    if start > max_iter:
        limit = "SOLVER.MAX_ITER" if solver.EPOCHS is None else f"{solver.EPOCHS:g} SOLVER.EPOCHS"
        raise UserError(f"{checkpoint}: has been trained for {start} steps, more than {limit}, {max_iter}")
    distributed.wait_for_all()  # they may be reading weights from there
    if distributed.is_main():
        open_output(folder, keep=resume)  # not before all that can be wrong was looked at: it moves earlier files aside
        (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
        if resume:
            cut_metrics(folder / "metrics.jsonl", start)
    batches = training_loader(
        dataset,
        build_transforms(cfg.TRANSFORMS.TRAIN),
        batch_size=solver.BATCH_SIZE,
        seed=cfg.SEED,
        num_workers=cfg.DATASETS.NUM_WORKERS,
        group_by_aspect_ratio=cfg.DATASETS.GROUP_BY_ASPECT_RATIO,
        first_batch=start,
        share=distributed.share(),
        bad_image=cfg.DATASETS.BAD_IMAGE,
    )
    trainer = Trainer(
        model,
        optimizer,
        build_lr_scheduler(cfg, max_iter),
        batches,
        max_iter=max_iter,
        start=start,
        accumulation=solver.ACCUMULATION,
        clip_gradient_norm=solver.CLIP_GRADIENT_NORM,
        seed=cfg.SEED,
    )
    pixels = pixels_of(cfg.MODEL)
    about = {"config": cfg.dump(), "classes": list(cfg.MODEL.CLASSES), **(pixels.entries() if pixels else {})}
    metrics = folder / "metrics.jsonl"
    trainer.hooks = [
        *(HOOKS.build(node, trainer) for node in cfg.HOOKS),
        *([LogHook(trainer, metrics, solver.LOG_PERIOD)] if distributed.is_main() else []),
        EvaluationHook(trainer, metrics, cfg.EVALUATION.PERIOD, lambda: run_evaluation(cfg, model, test_dataset)),
        *([CheckpointHook(trainer, folder, solver.CHECKPOINT_PERIOD, about)] if distributed.is_main() else []),
    ]
    trainer.train()
    return run_evaluation(cfg, model, test_dataset)


@distributed.in_every_process
def test(cfg, weights):
    """Test the detector that a config describes with trained weights.

    Args:
        cfg: what :func:`detlite.config.load_config` returned.
        weights: a checkpoint of that detector, or anything else that :func:`detlite.checkpoint.read_weights` takes.

    Returns:
        the evaluators' results, such as ``{"bbox": {"AP": 0.78, ...}}``; they are in OUTPUT_DIR, too.

    Raises:
        UserError: weights or data that do not fit the config.
    """
    weights = read_weights(weights)
    start_log()
    if distributed.is_main():
        open_output(Path(cfg.OUTPUT_DIR), keep=True)
    cfg, model = build_trained(cfg, weights)
    return run_evaluation(cfg, model, build_test_dataset(cfg))


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
    model = build_model(cfg)
    logger.info("%s", load_weights(model, weights, complete=True))
    return cfg, model


def build_test_dataset(cfg):
    """DATASETS.TEST, whose classes must be the model's."""
    dataset = build_dataset(cfg.DATASETS.TEST)
    if list(dataset.classes) != list(cfg.MODEL.CLASSES):
        raise UserError(
            f"DATASETS.TEST: its classes are {list(dataset.classes)}, the model's are {list(cfg.MODEL.CLASSES)}"
        )
    return dataset


def run_evaluation(cfg, model, dataset):
    """Evaluate a model on a data set, write results, predictions and pictures to OUTPUT_DIR, and log the summary."""
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
    evaluate(model, loader, [*evaluators, pictures])

    def write():
        for evaluator in evaluators:
            if hasattr(evaluator, "predictions"):
                write_json(evaluator.predictions(), folder / "predictions.json")
                break
        return report(evaluators, folder)

    results = distributed.from_main(write)
    if pictures.count:
        logger.info("pictures of ground truth beside detections: %s", pictures.folder)
    return results


def score(cfg, path):
    """Score saved predictions on DATASETS.TEST, without a model.

    Args:
        cfg: what :func:`detlite.config.load_config` returned; MODEL has no say.
        path: a JSON file of COCO results, such as a ``predictions.json``.

    Returns:
        the evaluators' results, as :func:`test` gives them; they are in OUTPUT_DIR, too.

    Raises:
        UserError: a file that cannot be read, or predictions that are not of the data set.
    """
    start_log()
    open_output(Path(cfg.OUTPUT_DIR), keep=True)
    predictions = read_json(path)
    dataset = build_dataset(cfg.DATASETS.TEST)
    evaluators = [EVALUATORS.build(node, dataset) for node in cfg.EVALUATION.EVALUATORS]
    for evaluator in evaluators:
        if not hasattr(evaluator, "load"):
            raise UserError(f"EVALUATION.EVALUATORS: {type(evaluator).__name__} has no load(), so it scores no files")
        try:
            evaluator.load(predictions)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    return report(evaluators, Path(cfg.OUTPUT_DIR))


def report(evaluators, folder):
    """Log the evaluators' summaries; write their results to evaluation.json and their tables into ``tables``."""
    results = {}
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


def restore(path, model, optimizer):
    """Put a training state back; returns the step to go on with."""
    checkpoint = load_checkpoint(path)
    try:
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: not a training state of the detector that the config describes: {error}") from None
    logger.info("going on from step %d, %s", checkpoint["step"], path)
    return checkpoint["step"]
