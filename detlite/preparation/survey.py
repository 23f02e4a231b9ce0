"""Inspect every image of a data set through the code that reads it for training.

Letters: M objects of one image.
"""

import hashlib
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader

from detlite.data.image_files import read_header
from detlite.data.records import Records
from detlite.errors import UserError


class Inspection(NamedTuple):
    """The facts about one image.

    Attributes:
        where: its file, or its index in a data set without files.
        error: the UserError that reading it raised, or None; after an error the attributes below are empty.
        orientation: EXIF orientation; 1 is upright.
        digest: of the file's bytes.
        image_id: as in the target.
        boxes: list of M lists, x1, y1, x2, y2 in the network's input.
        labels: list of M ints, 1 ... K.
        size: (height, width) in the network's input.
        original_size: (height, width) before the transforms.
    """

    where: str
    error: UserError | None = None
    orientation: int = 1
    digest: bytes = b""
    image_id: int = -1
    boxes: list = ()
    labels: list = ()
    size: tuple = ()
    original_size: tuple = ()


def inspect_images(dataset, transforms, num_workers):
    """Return a loader that yields an :class:`Inspection` of every image, in order.

    Args:
        dataset: a data set, see the DATASETS registry.
        transforms: transforms of images and targets before the network, see :func:`build_transforms`.
        num_workers: processes that read images; 0 reads in this process.
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
    """Inspections by index."""

    def __init__(self, dataset, transforms):
        self.dataset = dataset
        self.records = Records(dataset, transforms, seed=0, bad_image="error", replace=False)

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        path = self.dataset.image_file(index) if hasattr(self.dataset, "image_file") else ""
        found = Inspection(path or f"image number {index + 1}")
        record = self.records[0, index]
        if isinstance(record, UserError):
            return found._replace(error=record)
        (image, target), _ = record
        if path:
            with open(path, "rb") as file:
                digest = hashlib.blake2b(file.read(), digest_size=16).digest()
            found = found._replace(orientation=read_header(path)[1], digest=digest)
        return found._replace(
            image_id=int(target["image_id"]),
            boxes=target["boxes"].tolist(),
            labels=target["labels"].tolist(),
            size=tuple(image.shape[-2:]),
            original_size=target["original_size"],
        )
