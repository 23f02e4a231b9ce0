"""A model over a data set: detections in the files' own pixels, handed to evaluators."""

import itertools
import logging
import time

import torch

from detlite import distributed
from detlite.drawing import draw_detections, save_picture
from detlite.logs import progress
from detlite.ops.boxes import scale_boxes

logger = logging.getLogger("detlite")


class EvaluationStopped(Exception):
    """An evaluation was given up before its end."""


@torch.inference_mode()
def evaluate(model, loader, evaluators, stop=lambda: False):
    """Detect in every image of a test loader, and evaluate.

    Of several processes, each detects in its share of the batches, and the main one's evaluators are handed all of
    them, in the order in which one process would go through them.

    Args:
        model: a detector; its mode is restored afterwards.
        loader: yields (images, targets), this process's share; targets have "image_id" and "original_size".
        evaluators: parts of EVALUATORS, or anything that has their ``reset`` and ``process``; if one of them
            ``needs_proposals`` and the model can return them, detections have "proposals", too.
        stop: () -> whether to give up before the next batch; the same in all processes.

    Raises:
        EvaluationStopped: ``stop`` said so.
    """
    was_training = model.training
    model.eval()
    if hasattr(model, "return_proposals"):
        model.return_proposals = any(getattr(evaluator, "needs_proposals", False) for evaluator in evaluators)
    for evaluator in evaluators:
        evaluator.reset()
    distributed.share_buffers(model)
    begin, count = time.perf_counter(), 0
    try:
        for targets, detections in _from_all_processes(_detect(model, loader, stop)):
            for evaluator in evaluators:
                evaluator.process(targets, detections)
            count += len(targets)
    finally:
        model.train(was_training)
        if hasattr(model, "return_proposals"):
            model.return_proposals = False
    seconds = time.perf_counter() - begin
    logger.info("%d images tested in %.1f s, %.3f s an image", count, seconds, seconds / max(1, count))


def _detect(model, loader, stop):
    """The targets and detections of each batch."""
    for images, targets in progress(loader, unit="batch", desc="test", disable=not distributed.is_main()):
        if stop():
            raise EvaluationStopped
        yield (
            targets,
            [
                to_original_size(detection, image.shape[-2:], target["original_size"])
                for detection, image, target in zip(model(images) if images else [], images, targets, strict=True)
            ],
        )


def _from_all_processes(batches):
    """In the main process the batches of all, which they take turns in; in the others none."""
    if distributed.count() == 1:
        return batches
    turns = itertools.zip_longest(*(distributed.gather(list(batches)) or ()))
    return (batch for turn in turns for batch in turn if batch is not None)


def to_original_size(detection, size, original_size):
    """Detections in the pixels of the file that an image was resized from, on the CPU.

    Args:
        detection: {"boxes" (R, 4), ...}, perhaps with "proposals" (S, 4), in the resized image's pixels.
        size: (height, width) of the resized image.
        original_size: (height, width) of the file's image.
    """
    detection = {name: value.cpu() for name, value in detection.items()}
    boxes = {
        name: scale_boxes(detection[name], size, original_size) for name in {"boxes", "proposals"} & set(detection)
    }
    return detection | boxes


class Pictures:
    """Draws the first test images, ground truth beside detections; used like an evaluator.

    Args:
        dataset: the test data set.
        folder: where the PNG files go.
        count: how many.
    """

    def __init__(self, dataset, folder, count):
        self.dataset = dataset
        self.folder = folder
        self.count = min(count, len(dataset))

    def reset(self):
        """Begin with the first image again."""
        self.drawn = 0
        if self.count:
            self.folder.mkdir(parents=True, exist_ok=True)

    def process(self, targets, detections):
        """Draw the images of a batch, as long as there are pictures to make."""
        for target, detection in zip(targets, detections, strict=True):
            if self.drawn < self.count:
                image, ground_truth = self.dataset[target["index"]]
                picture = draw_detections(image, ground_truth, detection, self.dataset.classes)
                save_picture(picture, self.folder / f"{target['image_id']}.png")
                self.drawn += 1
