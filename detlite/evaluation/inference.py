"""Run a detector over a data set and pass its detections to evaluators."""

import itertools
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from detlite import distributed
from detlite.guard import checking_parts
from detlite.logs import progress
from detlite.ops.boxes import scale_boxes
from detlite.signature import accepts

logger = logging.getLogger("detlite")


class EvaluationStopped(Exception):
    """An evaluation was stopped before its end."""


def evaluate(model: Any, loader: Iterable, evaluators: list, stop: Callable[[], bool] = lambda: False) -> None:
    """Detect in every image of a test loader, and pass the detections to evaluators.

    Several processes each detect in a share of the batches. The main process's evaluators receive all batches, in the
    order of a single process.

    Args:
        model: a detector; its mode is restored afterwards.
        loader: yields (images, targets), this process's share; targets have "image_id" and "original_size".
        evaluators: parts of EVALUATORS, or other objects with ``reset`` and ``process``. If one of them
            ``needs_proposals`` and the model can return them, detections also have "proposals".
        stop: () -> whether to raise EvaluationStopped before the next batch; the same in all processes.
    """
    was_training = model.training
    model.eval()
    # Proposals cost time, so the model returns them only if an evaluator needs them.
    needs_proposals = any(getattr(evaluator, "needs_proposals", False) for evaluator in evaluators)
    options = {"extras": ["proposals"]} if needs_proposals and accepts(model.forward, "extras") else {}
    for evaluator in evaluators:
        evaluator.reset()
    distributed.share_buffers(model)

    # The model's mode is restored even if the evaluation is stopped.
    begin, count = time.perf_counter(), 0
    try:
        for targets, detections in _from_all_processes(_detect(model, loader, stop, options)):
            for evaluator in evaluators:
                evaluator.process(targets, detections)
            count += len(targets)
    finally:
        model.train(was_training)
    seconds = time.perf_counter() - begin
    logger.info("%d images tested in %.1f s, %.3f s per image", count, seconds, seconds / max(1, count))


@torch.inference_mode()
def _detect(model, loader, stop, options):
    """Yield the targets and detections of each batch; the model is called with ``options``.

    torch refuses to change the yielded tensors in place, as they are made in inference mode.
    """
    batches = progress(loader, unit="batch", desc="test", disable=not distributed.is_main())
    for number, (images, targets) in enumerate(batches):
        if stop():
            raise EvaluationStopped
        # A batch is empty if none of its images can be read.
        with checking_parts(not number):
            found = model(images, **options) if images else []
        rows = zip(found, images, targets, strict=True)
        detections = [to_original_size(one, image.shape[-2:], target["original_size"]) for one, image, target in rows]
        yield targets, detections


def _from_all_processes(batches):
    """Return the batches of all processes in the main process; in others, none."""
    if distributed.count() == 1:
        return batches
    # Of n processes, process r has batches r, r + n, ...; zip_longest fills the last turn with None.
    turns = itertools.zip_longest(*(distributed.gather(list(batches)) or ()))
    return filter(None, itertools.chain.from_iterable(turns))


def to_original_size(detection, size, original_size):
    """Return detections on the CPU, with boxes and proposals in pixels of the image file.

    They are in pixels of the resized image. Sizes are the (height, width) of the resized image and of the file's.
    """
    detection = {name: value.cpu() for name, value in detection.items()}
    for name in ("boxes", "proposals"):
        if name in detection:
            detection[name] = scale_boxes(detection[name], size, original_size)
    return detection
