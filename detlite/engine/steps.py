"""The number of steps that SOLVER's keys give for a data set and a number of processes."""

import logging
import math

import torch

from detlite.errors import UserError
from detlite.solver import lr_factor

logger = logging.getLogger("detlite")


def plan_steps(solver, dataset, processes):
    """Return the number of steps, and log the schedule. Raise a UserError if the batch cannot be divided evenly."""
    check_division(solver, processes)
    max_iter = count_steps(solver, len(dataset))
    plan = describe_schedule(solver, len(dataset), processes)
    logger.info("training on %d images of %d classes: %s", len(dataset), len(dataset.classes), plan)
    if never_falls(solver, max_iter):
        steps = list(solver.LR_SCHEDULER.STEPS)
        remedy = f"the last step, {max_iter}; use fractions of the training, such as 0.7"
        logger.warning("the learning rate never falls: SOLVER.LR_SCHEDULER.STEPS %s are after %s", steps, remedy)
    return max_iter


def describe_threads(num_workers):
    """Describe the threads that compute and the processes that read images, in one line."""
    reading = "the same ones read"
    if num_workers:
        reading = f"{num_workers} processes of one thread each read images ahead"
    return f"torch computes with {torch.get_num_threads()} threads (OMP_NUM_THREADS), {reading} (DATASETS.NUM_WORKERS)"


def count_steps(solver, num_images):
    """Return the number of steps: MAX_ITER, or the steps that show every image EPOCHS times, rounded up."""
    if solver.MAX_ITER is not None:
        return solver.MAX_ITER
    return math.ceil(round(solver.EPOCHS * num_images / solver.BATCH_SIZE, 6))  # 1.1 * 100 is above 110


def check_division(solver, processes):
    """Raise a UserError if processes and passes get unequal shares of a batch; some images would weigh more."""
    passes = processes * solver.ACCUMULATION
    if solver.BATCH_SIZE % passes:
        below = solver.BATCH_SIZE // passes * passes
        fitting = " or ".join(str(size) for size in (below, below + passes) if size)
        shares = f"{_plural(processes, 'process')} x {_plural(solver.ACCUMULATION, 'pass')} (SOLVER.ACCUMULATION)"
        problem = f"SOLVER.BATCH_SIZE is {solver.BATCH_SIZE}, the images of a step over all processes"
        raise UserError(f"{problem}; it must divide evenly into {shares}, such as {fitting}")


def describe_schedule(solver, num_images, processes):
    """Describe batch, learning rate, steps and epochs in one line."""
    batch, max_iter = solver.BATCH_SIZE, count_steps(solver, num_images)
    words = f"batch {batch}"
    passes = processes * solver.ACCUMULATION
    if passes > 1:
        words += f" ({_plural(processes, 'process')} x {_plural(solver.ACCUMULATION, 'pass')} x {batch // passes})"

    # A part that replaces the optimizer may have no LR.
    if "LR" in solver.OPTIMIZER:
        words += f", lr {solver.OPTIMIZER.LR * lr_factor(solver):g}"
        if solver.REFERENCE_BATCH_SIZE:
            words += f" ({solver.OPTIMIZER.LR:g} x {batch}/{solver.REFERENCE_BATCH_SIZE})"
    epochs = max_iter * batch / num_images
    digits = ".0f" if epochs >= 100 else ".3g"
    return f"{words}, {num_images / batch:.6g} steps per epoch, {max_iter} steps, {epochs:{digits}} epochs"


def never_falls(solver, max_iter):
    """Return whether the learning rate never falls: an EPOCHS run ends before MultiStepLR's first whole STEPS."""
    steps = solver.LR_SCHEDULER.get("STEPS") or [0]
    return solver.EPOCHS is not None and min(steps) >= max_iter


def _plural(number, word):
    return f"1 {word}" if number == 1 else f"{number} {word}es"
