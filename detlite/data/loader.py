"""Batches for training and testing.

Each draw, its augmentation and the replacement of a bad image are functions of (seed, epoch, index), for any number of
workers and interruptions. A fault in a user's files is the same one-line UserError with and without workers.
"""

import functools
import itertools
import logging
import multiprocessing.connection
import multiprocessing.util
import signal
from collections import Counter

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from detlite.data.image_sampler import UniformImageSampler, epoch_of
from detlite.data.packing import PackedBatch, pack
from detlite.data.records import Records
from detlite.distributed.watch import waiting_for
from detlite.errors import UserError
from detlite.seeding import derive_seed
from detlite.signals import ENDING

logger = logging.getLogger(__name__)

# torch's handler of SIGCHLD would raise an error about a dead worker at any line. Who waits for its batch gets one too.
signal_handling._SIGCHLD_handler_set = True

NAMED = 10  # bad images that the log names; the others are only counted


class TrainingBatchSampler:
    """Endless batches of draws, where a draw is an (epoch, index).

    If an epoch has an image several times, the later draws are (epoch, index, 1), (epoch, index, 2), ..., which differ
    in their augmentation. With grouping, a batch has only landscape or only portrait (or square) images, which wastes
    less padding. A batch is complete as soon as one of the two groups has enough images. The rest is used in the next
    epoch, so no image is dropped, as in detectron2's AspectRatioGroupedDataset.

    Args:
        sizes: (N, 2) array of (height, width).
        image_sampler: a part of IMAGE_SAMPLERS, which orders the images of each epoch.
        batch_size: draws per batch, over all shares.
        first_batch: number of batches to skip, for a resumed run. Their images are not read.
        share: (r, n) takes the draws r, r + n, ... of each batch: the share of process r of n.
    """

    def __init__(self, sizes, image_sampler, batch_size, seed, group_by_aspect_ratio, first_batch=0, share=(0, 1)):
        self.num_images = len(sizes)
        self.image_sampler = image_sampler
        self.is_landscape = (sizes[:, 1] > sizes[:, 0]) & group_by_aspect_ratio
        self.batch_size = batch_size
        self.seed = seed
        self.first_batch = first_batch
        self.first_draw, self.stride = share

    def __iter__(self):
        """Yield lists of draws."""
        for batch in itertools.islice(self._batches(), self.first_batch, None):
            yield batch[self.first_draw :: self.stride]

    def _batches(self):
        groups = [], []  # incomplete batches: other images, landscape images
        for epoch in itertools.count():
            generator = np.random.default_rng(derive_seed(self.seed, epoch))
            order = epoch_of(self.image_sampler, generator, self.num_images)
            times = Counter()
            for index, group in zip(order.tolist(), self.is_landscape[order].tolist(), strict=True):
                repeat = (times[index],) if times[index] else ()
                times[index] += 1
                groups[group].append((epoch, index, *repeat))
                if len(groups[group]) == self.batch_size:
                    yield list(groups[group])
                    groups[group].clear()


def training_loader(
    dataset: object, transforms: object, *, batch_size: int, seed: int = 0, num_workers: int = 0,
    group_by_aspect_ratio: bool = True, first_batch: int = 0, share: tuple = (0, 1), bad_image: str = "error",
    pin_memory: bool = False, image_sampler: object | None = None,
) -> DataLoader:  # fmt: skip
    """Build a loader of endless training batches.

    Args:
        dataset: a data set, see the DATASETS registry.
        transforms: callable ``(image, target) -> (image, target)``, see :func:`build_transforms`.
        batch_size, group_by_aspect_ratio, first_batch, share: see :class:`TrainingBatchSampler`.
        seed: seed of order and augmentation.
        num_workers: processes that read ahead; 0 reads in this process. The batches are the same.
        bad_image: treatment of an ImageError: "error" raises it; "skip" takes the next readable image of the data set,
            with the augmentation of the draw.
        pin_memory: whether workers' images go into pinned memory, from which a GPU copies without a wait.
        image_sampler: see :class:`TrainingBatchSampler`; None is :class:`UniformImageSampler`.

    Returns:
        a DataLoader of (images, targets): a list of (3, H, W) tensors and a list of dicts of "boxes" (M, 4), "labels"
        (M,), "image_id", "index" (in the data set), "original_size" ((height, width) before the transforms) and
        "seed", an int per draw. All tensors are plain ones. Its ``bad_images`` is the number of bad images met while
        reading the last batch.
    """
    image_sampler = image_sampler or UniformImageSampler(dataset.sizes, None)
    choice = group_by_aspect_ratio, first_batch, share
    batches = TrainingBatchSampler(dataset.sizes, image_sampler, batch_size, seed, *choice)
    return _Loader(Records(dataset, transforms, seed, bad_image, replace=True), batches, num_workers, pin_memory)


def test_loader(
    dataset: object, transforms: object, *, batch_size: int = 1, num_workers: int = 0, share: tuple = (0, 1),
    bad_image: str = "error", pin_memory: bool = False,
) -> DataLoader:  # fmt: skip
    """Build a loader of each image once, in order.

    Arguments and batches are as in :func:`training_loader`, except that share (r, n) takes whole batches r, r + n, ...
    "boxes" are transformed with the image, and the last batch may be smaller. "skip" leaves bad images out, so a batch
    may be empty; evaluators count the objects of these images as missed.
    """
    draws = [(0, index) for index in range(len(dataset))]
    batches = [draws[start : start + batch_size] for start in range(0, len(draws), batch_size)]
    records = Records(dataset, transforms, 0, bad_image, replace=False)
    return _Loader(records, batches[share[0] :: share[1]], num_workers, pin_memory)


test_loader.__test__ = False  # pytest takes its name for a test's


class _Loader(DataLoader):
    """A DataLoader that raises the records' UserErrors, and counts bad images."""

    def __init__(self, records, batches, num_workers, pin_memory):
        super().__init__(
            records,
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=functools.partial(_collate, is_packed=num_workers > 0),
            pin_memory=pin_memory and num_workers > 0,
            worker_init_fn=_ignore_signals_in_worker,
            generator=torch.Generator(),  # otherwise each iteration would draw from torch's global one
        )
        self.bad_images = 0
        self.named = set()

    def _read(self):
        """Yield batches. A worker that dies is a UserError, and no worker outlives the loop."""
        if self.num_workers:
            multiprocessing.util.get_temp_dir()  # for the workers' sockets; killed workers would leave their own
        batches = super().__iter__()
        workers = getattr(batches, "_workers", [])
        try:
            while True:
                with waiting_for(lambda: _describe_wait(batches, workers)):
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch
        except (RuntimeError, OSError, EOFError) as error:
            ended = multiprocessing.connection.wait([worker.sentinel for worker in workers], timeout=1)
            for number, worker in enumerate(workers):
                if worker.sentinel in ended:
                    raise UserError(_describe_end(number, worker, self.dataset.dataset)) from error
            raise
        finally:
            if workers:
                batches._shutdown_workers()  # waits for each, but a stopped worker does not end
            for worker in workers:
                worker.kill()

    def __iter__(self):
        total = 0
        for batch in self._read():
            if isinstance(batch, UserError):
                try:
                    raise batch
                finally:
                    del batch  # otherwise error and frame hold each other, and workers are collected late

            images, targets, messages = batch.unpack() if isinstance(batch, PackedBatch) else batch
            self.bad_images = len(messages)
            total += len(messages)
            for message in messages:
                self._name(message)
            yield images, targets
        if total:
            logger.warning(f"{total} bad images were left out (BAD_IMAGE skip); their objects count as missed")

    def _name(self, message):
        """Log one message about a bad image, once, and only the first NAMED."""
        if message in self.named or len(self.named) == NAMED:
            return
        self.named.add(message)
        more = "; further bad images are only counted" if len(self.named) == NAMED else ""
        logger.warning(f"BAD_IMAGE skip: {message}{more}")


def _ignore_signals_in_worker(worker):
    """Keep a worker alive when all processes of a job are signaled.

    The main process finishes its step and then ends its workers. SIGTERM still ends a worker, but after 30 seconds,
    because Python's exit ends remaining workers with it.
    """
    for number in (signal.SIGINT, *ENDING):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # not on Windows
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(30))


def _describe_wait(batches, workers):
    """Name the worker whose batch is next, in words."""
    if not workers:
        return "the reading of images"
    task = batches._task_info.get(batches._rcvd_idx)
    if task is None:  # the batch has just come
        return "a loader worker"
    number = task[0]
    return f"loader worker {number} of {len(workers)} (process {workers[number].pid})"


def _describe_end(number, worker, dataset):
    """Say how a worker ended, and what to do."""
    worker.join()
    if worker.exitcode == -9:  # Windows has no SIGKILL
        remedy = "lower DATASETS.NUM_WORKERS, SOLVER.BATCH_SIZE or the image size"
        return f"loader worker {number} was killed, as when the machine's memory is full; {remedy}"
    if worker.exitcode < 0:
        return f"loader worker {number} was ended by {signal.Signals(-worker.exitcode).name}"
    cause = f"{type(dataset).__name__} or a transform exits instead of raising an error"
    return f"loader worker {number} ended with status {worker.exitcode}: {cause}"


def _collate(records, is_packed):
    """Turn records into lists of images, targets and messages, packed for another process, or into a UserError."""
    images, targets, messages = [], [], []
    for record in records:
        if isinstance(record, UserError):
            return record
        pair, bad = record
        if pair:
            images.append(pair[0])
            targets.append(pair[1])
        messages += bad
    return pack(images, targets, messages) if is_packed else (images, targets, messages)
