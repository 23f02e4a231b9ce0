"""Inspect every image of a data set with the code that reads it for training.

Letters: M objects of one image.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader

from detlite.data.image_files import read_header
from detlite.data.records import Records
from detlite.errors import UserError


class Inspection(NamedTuple):
    """The facts about one image. After an error, only ``where`` and ``error`` are set."""

    where: str  # the image's file, or "image number N" if the data set has no files
    error: UserError | None = None
    orientation: int = 1  # EXIF's number; 1 is upright
    digest: bytes = b""  # hash of the file's bytes
    image_id: int = -1
    boxes: Sequence = ()  # M lists [x1, y1, x2, y2], in the network's input
    labels: Sequence = ()  # M ints, 1 ... K
    size: tuple = ()  # (height, width) in the network's input
    original_size: tuple = ()  # (height, width) before the transforms


def inspect_images(dataset, transforms, num_workers):
    """Return a loader that yields the :class:`Inspection` of each image, in order.

    With 0 workers, this process reads the images.
    """
    return DataLoader(
        _Inspector(dataset, transforms),
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_unchanged,
        generator=torch.Generator(),  # without it, torch's global generator would be advanced
    )


def _unchanged(value):
    return value


class _Inspector:
    """A data set of inspections, for the DataLoader."""

    def __init__(self, dataset, transforms):
        self.dataset = dataset
        self.records = Records(dataset, transforms, seed=0, bad_image="error", replace=False)

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        path = ""
        if hasattr(self.dataset, "image_file"):
            path = self.dataset.image_file(index)
        where = path or f"image number {index + 1}"
        record = self.records[0, index]  # epoch 0
        if isinstance(record, UserError):
            return Inspection(where, record)
        orientation, digest = 1, b""
        if path:
            _, orientation = read_header(path)
            digest = hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()

        # Plain numbers and lists travel faster from a worker process than tensors.
        (image, target), _ = record  # the second element is about skipped images; here none are skipped
        return Inspection(
            where,
            orientation=orientation,
            digest=digest,
            image_id=int(target["image_id"]),
            boxes=target["boxes"].tolist(),
            labels=target["labels"].tolist(),
            size=tuple(image.shape[-2:]),
            original_size=target["original_size"],
        )
