"""A look at every image of a data set, through what reads it for training.

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
    """What one image is like.

    Attributes:
        index: its place in the data set.
        where: its file, or its place where the data set has no files.
        error: what is wrong with it, a UserError; then all below are empty.
        orientation: as EXIF numbers it; 1 is as stored.
        digest: of the file's bytes.
        image_id: as in the target.
        boxes: list of M lists, x1, y1, x2, y2 in the network's input.
        labels: list of M ints, 1 ... K.
        size: (height, width) in the network's input.
        original_size: (height, width) before the transforms.
    """

    index: int
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
    """An :class:`Inspection` of every image, in order.

    Args:
        dataset: a data set, see the DATASETS registry.
        transforms: what happens to its images before the network sees them, see :func:`build_transforms`.
        num_workers: processes that read; 0 reads in this one.
    """
    return DataLoader(
        _Inspector(dataset, transforms),
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # else torch's global one would be drawn from
    )


def _as_it_is(value):
    return value


class _Inspector:
    """Inspections by index."""

    def __init__(self, dataset, transforms):
        self.dataset = dataset
        self.samples = Records(dataset, transforms, seed=0, bad_image="error", replace=False)

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        path = self.dataset.image_file(index) if hasattr(self.dataset, "image_file") else ""
        found = Inspection(index, path or f"image number {index + 1}")
        sample = self.samples[0, index]
        if isinstance(sample, UserError):
            return found._replace(error=sample)
        (image, target), _ = sample
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
