"""The pieces that a training is put together from, by a config."""

import logging

from detlite import distributed
from detlite.checkpoint import CheckpointSeries, pixels_of
from detlite.data import build_transforms, training_loader
from detlite.engine.hooks import CheckpointHook, EvaluationHook, FailureHook, find_metric
from detlite.engine.log import LogHook, MetricsHook
from detlite.engine.trainer import Trainer
from detlite.errors import UserError
from detlite.registry import EVALUATORS, HOOKS
from detlite.solver import build_lr_scheduler, build_optimizer

logger = logging.getLogger("detlite")


def build_trainer(cfg, model, dataset, start, max_iter):
    """The trainer of a model on a data set, from the step ``start`` on to ``max_iter``, still without hooks."""
    solver = cfg.SOLVER
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
    return Trainer(
        model,
        build_optimizer(cfg, model),
        build_lr_scheduler(cfg, max_iter),
        batches,
        max_iter=max_iter,
        start=start,
        accumulation=solver.ACCUMULATION,
        clip_gradient_norm=solver.CLIP_GRADIENT_NORM,
        seed=cfg.SEED,
    )


def add_hooks(trainer, cfg, folder, evaluate):
    """Give a trainer the config's hooks and those that are always there; what writes is in the main process only.

    Args:
        trainer: a :class:`~detlite.engine.trainer.Trainer`.
        cfg: the config.
        folder: OUTPUT_DIR.
        evaluate: see :class:`~detlite.engine.hooks.EvaluationHook`, which is returned.
    """
    pixels = pixels_of(cfg.MODEL)
    metadata = {"config": cfg.dump(), "classes": list(cfg.MODEL.CLASSES), **(pixels.entries() if pixels else {})}
    checkpoints = CheckpointHook(trainer, folder, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.KEEP_CHECKPOINTS, metadata)
    evaluation = EvaluationHook(
        trainer,
        cfg.EVALUATION.PERIOD,
        evaluate,
        best=cfg.EVALUATION.BEST,
        patience=cfg.EVALUATION.PATIENCE,
        save_best=lambda: checkpoints.save_weights("model_best.pth") if distributed.is_main() else None,
    )
    trainer.folder = folder
    writing = [LogHook(trainer, cfg.SOLVER.LOG_PERIOD), MetricsHook(folder / "metrics.jsonl"), checkpoints]
    trainer.hooks = [
        *(HOOKS.build(node, trainer) for node in cfg.HOOKS),
        *(writing if distributed.is_main() else []),
        FailureHook(trainer, folder),
        evaluation,
    ]
    return evaluation


def check_best(cfg, dataset):
    """See, before the training, that EVALUATION.BEST names a result: those of no detections have all the names.

    Raises:
        UserError: it does not.
    """
    group = cfg.EVALUATION.BEST.split(".")[0]
    if group == "validation" and not cfg.EVALUATION.LOSS:
        raise UserError(f"EVALUATION.BEST: {cfg.EVALUATION.BEST} needs EVALUATION.LOSS True")
    if cfg.EVALUATION.BEST and group != "validation":
        results = {}
        for evaluator in [EVALUATORS.build(node, dataset) for node in cfg.EVALUATION.EVALUATORS]:
            evaluator.reset()
            results |= evaluator.evaluate()
        find_metric(results, cfg.EVALUATION.BEST)


def find_state(folder):
    """(file, content) of the newest whole checkpoint in OUTPUT_DIR, or (None, None).

    Raises:
        UserError: all are damaged, or processes on several machines find different ones.
    """
    path, state = CheckpointSeries(folder).load_newest() or (None, None)
    step = state["step"] if state else None
    if distributed.from_main(lambda: step) != step:
        raise UserError(f"--resume: the machines find different checkpoints in {folder}: OUTPUT_DIR must be shared")
    if not state:
        logger.warning("--resume: there is no checkpoint in %s to go on from: the training begins anew", folder)
    return path, state


def restore(trainer, path, state, solver):
    """Put a training state back into a trainer with all its hooks.

    Args:
        trainer: the trainer.
        path: where the state is from.
        state: what :meth:`~detlite.engine.trainer.Trainer.state_dict` gave.
        solver: the node SOLVER.

    Raises:
        UserError: it is that of another detector or a longer run.
    """
    if state["step"] > trainer.max_iter:
        limit = "SOLVER.MAX_ITER" if solver.EPOCHS is None else f"{solver.EPOCHS:g} SOLVER.EPOCHS"
        raise UserError(f"{path}: has been trained for {state['step']} steps, more than {limit}, {trainer.max_iter}")
    try:
        trainer.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: not a training state of the detector that the config describes: {error}") from None
    logger.info("going on from step %d, %s", state["step"], path)
