"""What SOLVER's batch size, epochs and learning rate come to, on a data set and a number of processes."""

import logging
import math

import torch

from detlite.errors import UserError
from detlite.solver import lr_factor

logger = logging.getLogger("detlite")


def plan_steps(solver, dataset, processes):
    """How many steps a training takes; what they come to is the first line of its log.

    Args:
        solver: the node SOLVER.
        dataset: what is trained on.
        processes: how many share a step.

    Raises:
        UserError: see :func:`check_division`.
    """
    check_division(solver, processes)
    max_iter = steps_in_all(solver, len(dataset))
    plan = describe(solver, len(dataset), processes)
    logger.info("training on %d images of %d classes: %s", len(dataset), len(dataset.classes), plan)
    if never_falls(solver, max_iter):
        logger.warning(
            "the learning rate never falls: SOLVER.LR_SCHEDULER.STEPS %s lie beyond the last step, %d; fractions, such "
            "as 0.7, follow SOLVER.EPOCHS",
            list(solver.LR_SCHEDULER.STEPS),
            max_iter,
        )
    return max_iter


def describe_threads(num_workers):
    """Who computes and who reads, in one line: the workers have a thread each, and wait while batches are not taken.

    >>> describe_threads(2).partition(" with ")[2].partition(" ")[2]
    'threads (OMP_NUM_THREADS), 2 processes of one thread each read images ahead (DATASETS.NUM_WORKERS)'
    """
    reading = f"{num_workers} processes of one thread each read images ahead" if num_workers else "the same ones read"
    return f"torch computes with {torch.get_num_threads()} threads (OMP_NUM_THREADS), {reading} (DATASETS.NUM_WORKERS)"


def steps_in_all(solver, num_images):
    """How many steps a training takes: MAX_ITER, or as many as show every image EPOCHS times, rounded up.

    >>> from types import SimpleNamespace
    >>> steps_in_all(SimpleNamespace(MAX_ITER=None, EPOCHS=1.5, BATCH_SIZE=4), num_images=101)
    38
    """
    if solver.MAX_ITER is not None:
        return solver.MAX_ITER
    return math.ceil(round(solver.EPOCHS * num_images / solver.BATCH_SIZE, 6))  # 1.1 * 100 is above 110


def check_division(solver, processes):
    """Refuse a batch that the processes and their passes cannot share evenly: some would weigh more than others.

    Raises:
        UserError: with the batch sizes that fit.
    """
    passes = processes * solver.ACCUMULATION
    if solver.BATCH_SIZE % passes:
        below = solver.BATCH_SIZE // passes * passes
        fitting = " or ".join(str(size) for size in (below, below + passes) if size)
        raise UserError(
            f"SOLVER.BATCH_SIZE is {solver.BATCH_SIZE}, the images of a step over all processes; what divides evenly "
            f"into {_plural(processes, 'process')} x {_plural(solver.ACCUMULATION, 'pass')} (SOLVER.ACCUMULATION) is "
            f"{fitting}"
        )


def describe(solver, num_images, processes):
    """What the numbers come to, in words."""
    batch, max_iter = solver.BATCH_SIZE, steps_in_all(solver, num_images)
    passes = processes * solver.ACCUMULATION
    split = f" ({_plural(processes, 'process')} x {_plural(solver.ACCUMULATION, 'pass')} x {batch // passes})"
    rate = ""
    if "LR" in solver.OPTIMIZER:
        factor = f" ({solver.OPTIMIZER.LR:g} x {batch}/{solver.REFERENCE_BATCH_SIZE})"
        rate = f", lr {solver.OPTIMIZER.LR * lr_factor(solver):g}{factor if solver.REFERENCE_BATCH_SIZE else ''}"
    epochs = max_iter * batch / num_images
    return (
        f"batch {batch}{split if passes > 1 else ''}{rate}, {num_images / batch:.6g} steps an epoch, {max_iter} steps, "
        f"{epochs:{'.0f' if epochs >= 100 else '.3g'}} epochs"
    )


def never_falls(solver, max_iter):
    """Whether the learning rate never falls, because an EPOCHS run ends before all of MultiStepLR's whole STEPS."""
    steps = solver.LR_SCHEDULER.get("STEPS") or [0]
    return solver.EPOCHS is not None and min(steps) >= max_iter


def _plural(number, word):
    """A number of things.

    >>> _plural(1, "pass"), _plural(2, "process")
    ('1 pass', '2 processes')
    """
    return f"{number} {word}{'' if number == 1 else 'es'}"
