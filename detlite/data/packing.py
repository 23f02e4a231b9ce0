"""Batches on their way from a worker: a few flat tensors instead of several per image.

A process takes about 0.7 ms to receive a tensor from another process, and more if the machine is busy, whatever the
tensor's size. Small tensors, such as all boxes of a batch, are therefore sent as bytes.
"""

import itertools
from collections import defaultdict
from typing import NamedTuple

import torch
import torch.utils.data

SMALL = 2**15  # bytes; several such tensors fit into a pipe's buffer of 64 KiB


class _Place(NamedTuple):
    """The place of a tensor in the flat tensor of its dtype."""

    dtype: torch.dtype
    start: int  # index of the first element
    shape: tuple  # sizes in the order of memory, the largest stride first
    axes: tuple  # permutation of these sizes that gives the tensor's own order


def _is_plain(value):
    """Return whether a value is a tensor of the CPU without anything that a copy of its elements would lose."""
    if type(value) is not torch.Tensor:
        return False
    return value.is_cpu and value.layout == torch.strided and not value.requires_grad


def _concatenate(pieces):
    """Concatenate flat tensors, in a worker directly into the memory that it shares with the main process."""
    num_bytes = sum(piece.nbytes for piece in pieces)
    if num_bytes <= SMALL or torch.utils.data.get_worker_info() is None:
        return torch.cat(pieces)
    storage = torch.UntypedStorage._new_shared(num_bytes)  # not public, but torch's default_collate uses it as well
    return torch.cat(pieces, out=torch.empty(0, dtype=pieces[0].dtype).set_(storage))


class PackedValues:
    """A list of values whose plain tensors are copied into one flat tensor per dtype; other values stay themselves."""

    def __init__(self, values):
        self.entries = []  # a _Place for a tensor, any other value itself
        self.is_pinned = False
        pieces = defaultdict(list)
        sizes = defaultdict(int)
        for value in values:
            if not _is_plain(value):
                self.entries.append(value)
                continue

            # Copy the elements in the order of memory, so that the unpacked tensor has the same strides.
            order = sorted(range(value.dim()), key=value.stride, reverse=True)
            axes = sorted(range(value.dim()), key=order.__getitem__)
            ordered = value.permute(order)
            self.entries.append(_Place(value.dtype, sizes[value.dtype], tuple(ordered.shape), tuple(axes)))
            pieces[value.dtype].append(ordered.flatten())
            sizes[value.dtype] += value.numel()
        self.flat = {dtype: _concatenate(parts) for dtype, parts in pieces.items()}

    def __getstate__(self):
        """Return the attributes for another process, with small tensors as arrays of bytes."""
        flat = {}
        for dtype, tensor in self.flat.items():
            flat[dtype] = tensor.view(torch.uint8).numpy() if tensor.nbytes <= SMALL else tensor
        return self.__dict__ | {"flat": flat}

    def __setstate__(self, state):
        """Restore the attributes."""
        self.__dict__.update(state)
        for dtype, values in self.flat.items():
            if not isinstance(values, torch.Tensor):
                self.flat[dtype] = torch.from_numpy(values).view(dtype)

    def pin_memory(self):
        """Move the flat tensors to pinned memory, from which a GPU copies without a wait."""
        self.flat = {dtype: tensor.pin_memory() for dtype, tensor in self.flat.items()}
        self.is_pinned = True

    def unpack(self):
        """Yield the values. Tensors are views of the flat tensors."""
        for entry in self.entries:
            if not isinstance(entry, _Place):
                yield entry
                continue
            size = torch.Size(entry.shape).numel()
            elements = self.flat[entry.dtype].narrow(0, entry.start, size)
            yield elements.view(entry.shape).permute(entry.axes)


class PackedBatch:
    """A packed batch.

    Args:
        images: list of (3, H, W) tensors.
        targets: list of dicts.
        messages: messages about bad images.
    """

    def __init__(self, images, targets, messages):
        self.images = PackedValues(images)
        self.keys = list(map(list, targets))
        self.values = PackedValues(itertools.chain.from_iterable(map(dict.values, targets)))
        self.messages = messages

    def pin_memory(self):
        """Move the tensors to pinned memory; a DataLoader calls this method."""
        self.images.pin_memory()
        self.values.pin_memory()
        return self

    def unpack(self):
        """Return images, targets and messages.

        The images are views of one tensor. The targets' tensors are copies, unless they are pinned: a target that is
        kept, or sent to another process, takes no other image's boxes with it.
        """
        values = self.values.unpack()
        if not self.values.is_pinned:
            values = (value.clone() if _is_plain(value) else value for value in values)
        targets = []
        for keys in self.keys:
            targets.append(dict(zip(keys, itertools.islice(values, len(keys)), strict=True)))
        return list(self.images.unpack()), targets, self.messages
