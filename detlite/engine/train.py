"""A training run: ``tools/train_net.py`` and ``detlite train`` call :func:`train`."""

import functools
import logging

import torch

from detlite import data, distributed
from detlite.agreement import agree_on_classes, build_test_sets
from detlite.checkpoint import agree_on_pixels, load_weights, read_weights, weights_in
from detlite.checkpoint.pixel_statistics import pixels_of
from detlite.checkpoint.run_checkpoints import CheckpointSeries
from detlite.config import Config
from detlite.config.explain import explain, format_difference
from detlite.config.load import load_config_text
from detlite.distributed import launcher
from detlite.engine.environment import log_environment
from detlite.engine.hooks import CheckpointHook, EvaluationHook, FailureHook, find_metric
from detlite.engine.log import LogHook, MetricsHook
from detlite.engine.output_dir import holding_output, open_output
from detlite.engine.steps import describe_threads, plan_steps
from detlite.engine.test import evaluate_model, name_results
from detlite.engine.trainer import Trainer
from detlite.errors import UserError
from detlite.files import user_path
from detlite.logs import start_log
from detlite.modeling import build_model
from detlite.modeling.precision import log_precision
from detlite.registry import EVALUATORS, HOOKS
from detlite.solver import build_lr_scheduler, build_optimizer
from detlite.writing import write_text

logger = logging.getLogger("detlite")


@distributed.in_every_process
@holding_output
def train(cfg: Config, resume: bool = False, adapt: object = lambda model: model, inspect: object = None) -> dict:
    """Train the detector that a config describes, and test it.

    Args:
        cfg: a config from :func:`detlite.config.load_config`.
        resume: whether to resume from the newest undamaged checkpoint in ``cfg.OUTPUT_DIR``, if there is one.
        adapt: function that receives the model with its initial weights and returns the model to train.
        inspect: function that receives the config and its training data set before the model is built.

    Returns:
        the evaluators' results, such as ``{"bbox": {"AP": 0.78, ...}}``. They are also written to OUTPUT_DIR.

    Raises:
        UserError: the config does not fit its data, a file is damaged, the disk is full, a loss is not finite.
        KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came. The step in progress was finished and saved.
    """
    start_log()
    log_environment(cfg.MODEL.DEVICE)
    folder = user_path(cfg.OUTPUT_DIR)
    note = f"began {folder}"  # kept by the launcher: after a failure it restarts the processes, which must resume
    resume = resume or launcher.remembers(note)

    # 1. Complete and check the config. Mistakes are reported before anything is built or written.
    path, state = find_state(folder) if resume else (None, None)
    if state:
        weights = weights_in(state, path)
    else:
        weights = read_weights(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else None
    dataset = data.build_train_datasets(cfg.DATASETS.TRAIN)
    cfg = agree_on_classes(cfg, dataset.classes, "DATASETS.TRAIN")
    max_iter = plan_steps(cfg.SOLVER, dataset, distributed.count())
    if weights:
        cfg = agree_on_pixels(cfg, weights, exact=bool(state))  # a resumed run must keep its pixel statistics
    test_sets = build_test_sets(cfg)
    check_best(cfg, test_sets)
    data.build_test_transforms(cfg.TRANSFORMS.TEST)  # refuses random ones
    if inspect and distributed.is_main():
        inspect(cfg, dataset)
    logger.info("%s", describe_threads(distributed.loader_workers(cfg.DATASETS.NUM_WORKERS)))

    # 2. Build the model, its trainer and the hooks. On resume, the checkpoint restores the state of all three.
    torch.manual_seed(cfg.SEED)
    model = build_model(cfg, initialize=not state)
    log_precision(model)
    if not state:
        load_initial_weights(model, weights, cfg.MODEL.MIN_WEIGHTS_MATCH)
    start = state["step"] if state else 0
    trainer = build_trainer(cfg, adapt(model), dataset, start, max_iter)
    evaluate = functools.partial(evaluate_model, cfg, trainer.evaluated_model, test_sets)
    evaluation = add_hooks(trainer, cfg, folder, evaluate)
    if state:
        restore(trainer, path, state, cfg)
    is_resumed = bool(state)
    del state, weights  # free their memory before the training

    # 3. Run. Wait until every process has read its weights: the main process moves the files of an earlier run.
    distributed.wait_for_all()
    if distributed.is_main():
        open_output(folder, keep=is_resumed)
        write_text(cfg.dump(), folder / "config.yaml")
        launcher.remember(note)
    trainer.train()
    return evaluation.finish()


def find_state(folder):
    """Read the newest undamaged checkpoint in OUTPUT_DIR: (path, content), or (None, None) if there is none."""
    path, state = CheckpointSeries(folder).load_newest() or (None, None)
    is_whole = isinstance(state, dict) and type(state.get("step")) is int and isinstance(state.get("config"), str)
    if path and not is_whole:
        raise UserError(f"--resume: {path} is no training state: its step or its config is missing")
    step = state["step"] if state else None
    main_step = distributed.from_main(lambda: step)
    if main_step != step:
        raise UserError(f"--resume: the machines find different checkpoints in {folder}: OUTPUT_DIR must be shared")
    if not state:
        logger.warning("--resume: there is no checkpoint in %s, so the training starts from the beginning", folder)
    return path, state


def load_initial_weights(model, weights, min_match):
    """Load MODEL.WEIGHTS into a model, and log the result. Without weights, warn about frozen layers."""
    if weights:
        logger.info("%s", load_weights(model, weights, min_match=min_match))
    elif not all(parameter.requires_grad for parameter in model.parameters()):
        keys = "BACKBONE.FREEZE_AT and MODEL.FREEZE"
        logger.warning("MODEL.WEIGHTS is empty, but some layers are frozen: they stay random (see %s)", keys)


def check_best(cfg, test_sets):
    """Check that EVALUATION.BEST names a result. To get the names, evaluate zero detections."""
    is_loss = cfg.EVALUATION.BEST.split(".")[-2:-1] == ["validation"]
    if is_loss and not cfg.EVALUATION.LOSS:
        raise UserError(f"EVALUATION.BEST: {cfg.EVALUATION.BEST} needs EVALUATION.LOSS True")
    if cfg.EVALUATION.BEST and not is_loss:
        found = []
        for test_set in test_sets:
            found.append({})
            for node in cfg.EVALUATION.EVALUATORS:
                evaluator = EVALUATORS.build(node, test_set.dataset)
                evaluator.reset()
                found[-1] |= evaluator.evaluate()
        find_metric(name_results(test_sets, found), cfg.EVALUATION.BEST)


def build_trainer(cfg, model, dataset, start, max_iter):
    """Build a trainer without hooks that trains a model from step ``start`` to ``max_iter``."""
    solver = cfg.SOLVER
    batches = data.training_loader(
        dataset,
        data.build_transforms(cfg.TRANSFORMS.TRAIN),
        batch_size=solver.BATCH_SIZE,
        seed=cfg.SEED,
        num_workers=distributed.loader_workers(cfg.DATASETS.NUM_WORKERS),
        group_by_aspect_ratio=cfg.DATASETS.GROUP_BY_ASPECT_RATIO,
        image_sampler=data.build_image_sampler(cfg.DATASETS.IMAGE_SAMPLER, dataset),
        first_batch=start,
        share=distributed.share(),
        bad_image=cfg.DATASETS.BAD_IMAGE,
        pin_memory=next(model.parameters()).is_cuda,
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
        ema_decay=solver.EMA_DECAY,
        seed=cfg.SEED,
    )


def add_hooks(trainer, cfg, folder, evaluate):
    """Give a trainer the config's hooks and the built-in ones, and return the EvaluationHook.

    Hooks that write files run in the main process only.
    """
    pixels = pixels_of(cfg.MODEL)
    entries = pixels.entries() if pixels else {}
    metadata = {"config": cfg.dump(), "classes": list(cfg.MODEL.CLASSES), **entries}
    checkpoints = CheckpointHook(trainer, folder, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.KEEP_CHECKPOINTS, metadata)
    evaluation = EvaluationHook(
        trainer,
        cfg.EVALUATION.PERIOD,
        evaluate,
        best=cfg.EVALUATION.BEST,
        patience=cfg.EVALUATION.PATIENCE,
        save_best=lambda: checkpoints.save_weights("model_best.pth") if distributed.is_main() else None,
    )

    # Hooks are called in this order. A step's checkpoint is saved before its evaluation.
    trainer.folder = folder
    trainer.hooks = [HOOKS.build(node, trainer) for node in cfg.HOOKS]
    if distributed.is_main():
        trainer.hooks += [LogHook(trainer, cfg.SOLVER.LOG_PERIOD), MetricsHook(folder / "metrics.jsonl"), checkpoints]
    trainer.hooks += [FailureHook(trainer, folder), evaluation]
    return evaluation


def restore(trainer, path, state, cfg):
    """Restore a trainer with hooks from the ``state`` in the file ``path``, and log what has changed since."""
    solver = cfg.SOLVER
    if state["step"] > trainer.max_iter:
        limit = "SOLVER.MAX_ITER" if solver.EPOCHS is None else f"{solver.EPOCHS:g} SOLVER.EPOCHS"
        raise UserError(f"{path}: has been trained for {state['step']} steps, more than {limit}, {trainer.max_iter}")
    log_changes(cfg, state, path)
    try:
        trainer.load_state_dict(state)
    except Exception as error:  # a damaged state can raise anything
        raise UserError(f"{path}: not a training state of the detector that the config describes: {error}") from None
    logger.info("resuming from step %d, %s", state["step"], path)


def log_changes(cfg, state, path):
    """On resume, log what changed since the checkpoint was saved. Another optimizer cannot use the saved state."""
    if state.get("threads", torch.get_num_threads()) != torch.get_num_threads():
        text = "torch computed with %d threads before, and now with %d: sums are rounded differently"
        logger.warning(text, state["threads"], torch.get_num_threads())
    try:
        old = load_config_text(state["config"], str(path), imports=cfg.IMPORTS)
    except UserError as error:  # another version of detlite wrote the config
        logger.warning("changes of the config since %s are unknown: %s", path, error)
        return
    was, now = old.SOLVER.OPTIMIZER.NAME, cfg.SOLVER.OPTIMIZER.NAME
    if was != now:
        problem = f"{now} cannot use the state that {was} left in {path}"
        remedy = f"resume with {was}, or train anew with MODEL.WEIGHTS {path} and without --resume"
        raise UserError(f"SOLVER.OPTIMIZER.NAME: {problem}; {remedy}")
    changes = format_difference(explain(old), explain(cfg))
    if not changes:
        return
    text = "the config has changed. From step %d on, the new values apply:\n%s"
    logger.warning(text, state["step"] + 1, changes)
    if "MODEL." in changes:
        logger.warning("weights come from the checkpoint: keys that only set the initial ones have no effect")
