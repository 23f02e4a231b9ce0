"""Batches for training and testing.

What is drawn, and how it is augmented, is a function of (seed, epoch, index): neither of the number of workers nor of
where a run was interrupted. So is what takes the place of a bad image, if that does not stop the run. Mistakes in a
user's files come out of a worker as the same one-line UserError as without.
"""

import itertools
import logging
import signal

import numpy as np
import torch
from torch.utils.data import DataLoader

from detlite.data.records import Records
from detlite.errors import UserError
from detlite.seeding import derive_seed

logger = logging.getLogger(__name__)

NAMED = 10  # bad images that the log names; the others are counted


class TrainingBatchSampler:
    """Endless batches of draws, each draw an (epoch, index): every epoch is a permutation of its own of all images.

    With grouping, a batch holds only landscape or only portrait (or square) images, which wastes less padding. As
    soon as either group has a batch's worth it is given out; what is left over goes into the next epoch, so nothing
    is dropped (detectron2's AspectRatioGroupedDataset does so).

    Args:
        sizes: (N, 2) array of (height, width).
        batch_size: draws a batch.
        seed: the order is a function of it.
        group_by_aspect_ratio: whether to group.
        first_batch: how many batches to leave out, for a run that goes on.
        share: (r, n) gives of each batch the draws r, r + n, ...: the share of process r of n.
    """

    def __init__(self, sizes, batch_size, seed, group_by_aspect_ratio, first_batch=0, share=(0, 1)):
        self.num_images = len(sizes)
        self.is_landscape = (sizes[:, 1] > sizes[:, 0]) & group_by_aspect_ratio
        self.batch_size = batch_size
        self.seed = seed
        self.first_batch = first_batch
        self.first_draw, self.stride = share

    def __iter__(self):
        """Lists of (epoch, index)."""
        for batch in itertools.islice(self._batches(), self.first_batch, None):
            yield batch[self.first_draw :: self.stride]

    def _batches(self):
        groups = [], []
        for epoch in itertools.count():
            order = np.random.default_rng(derive_seed(self.seed, epoch)).permutation(self.num_images)
            for index, group in zip(order.tolist(), self.is_landscape[order].tolist(), strict=True):
                groups[group].append((epoch, index))
                if len(groups[group]) == self.batch_size:
                    yield list(groups[group])
                    groups[group].clear()


def training_loader(
    dataset,
    transforms,
    *,
    batch_size,
    seed,
    num_workers,
    group_by_aspect_ratio,
    first_batch=0,
    share=(0, 1),
    bad_image="error",
):
    """Endless training batches.

    Args:
        dataset: a data set, see the DATASETS registry.
        transforms: callable ``(image, target) -> (image, target)``, see :func:`build_transforms`.
        batch_size: images a batch, over all shares.
        seed: order and augmentation are functions of it.
        num_workers: processes that read ahead; 0 reads in this one. The batches are the same.
        group_by_aspect_ratio: see :class:`TrainingBatchSampler`.
        first_batch: how many batches to leave out, without reading their images.
        share: which part of each batch to read, see :class:`TrainingBatchSampler`.
        bad_image: what becomes of the draw of an image that raises an ImageError: "error" raises it; "skip" takes the
            next image of the data set that can be read, augmented as the draw says.

    Returns:
        a DataLoader of (images, targets): a list of (3, H, W) tensors and a list of dicts of "boxes" (M, 4), "labels"
        (M,), "image_id", "index" (its place in the data set), "original_size" ((height, width) before the transforms)
        and "seed", an int of this draw alone. All tensors are plain ones. Its ``bad_images`` is the number of bad
        images that the last batch would have had.
    """
    sampler = TrainingBatchSampler(dataset.sizes, batch_size, seed, group_by_aspect_ratio, first_batch, share)
    return _loader(Records(dataset, transforms, seed, bad_image, replace=True), sampler, num_workers)


def test_loader(dataset, transforms, *, batch_size, num_workers, share=(0, 1), bad_image="error"):
    """Each image once, in order.

    Args and batches are those of :func:`training_loader`, but that a share (r, n) is the whole batches r, r + n, ...;
    "boxes" are transformed as the image is, and the last batch may be smaller. "skip" leaves bad images out, so that
    a batch may be empty; an evaluator, which knows the whole data set, counts all their objects as missed.
    """
    draws = [(0, index) for index in range(len(dataset))]
    batches = [draws[start : start + batch_size] for start in range(0, len(draws), batch_size)]
    records = Records(dataset, transforms, 0, bad_image, replace=False)
    return _loader(records, batches[share[0] :: share[1]], num_workers)


test_loader.__test__ = False  # not a test, whatever pytest takes its name for


def _loader(records, batches, num_workers):
    return _Loader(
        records,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_collate,
        worker_init_fn=_ignore_signals_in_worker,
        generator=torch.Generator(),  # else each iteration would draw from torch's global one
    )


def _ignore_signals_in_worker(worker):
    """Terminals and schedulers signal all processes of a job: the main one is to finish its step and end its workers.

    SIGTERM does end a worker, but only after so long that it must be meant for it: Python's own exit sends it one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(30))


class _Loader(DataLoader):
    """A DataLoader that raises the UserErrors which came in place of a batch, and tells of bad images."""

    bad_images = 0
    named = frozenset()

    def __iter__(self):
        total = 0
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                try:
                    raise batch
                finally:
                    del batch  # else the error holds this frame and the frame the error: workers are collected late
            images, targets, bad = batch
            self.bad_images = len(bad)
            total += len(bad)
            for message in bad:
                if message not in self.named and len(self.named) < NAMED:
                    self.named |= {message}
                    more = "; more of them are counted only" if len(self.named) == NAMED else ""
                    logger.warning(f"BAD_IMAGE skip: {message}{more}")
            yield images, targets
        if total:
            logger.warning(f"{total} bad images were left out, as BAD_IMAGE says; their objects count as missed")


def _collate(records):
    """Turn records into (images, targets, messages), three lists; a record that is a UserError replaces the batch."""
    images, targets, messages = [], [], []
    for record in records:
        if isinstance(record, UserError):
            return record
        pair, bad = record
        if pair:
            images.append(pair[0])
            targets.append(pair[1])
        messages += bad
    return images, targets, messages
