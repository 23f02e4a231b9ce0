"""One draw of a loader: an image read and transformed, as the draw alone says."""

import torch
from torchvision import tv_tensors

from detlite.data.faults import ImageError
from detlite.errors import UserError
from detlite.seeding import derive_seed, seeded


class Records:
    """Records, read and transformed, by (epoch, index), each with messages on bad images; errors are given, not raised.

    A DataLoader would rebuild an exception of a worker with the worker's traceback as its message.

    Args:
        dataset, transforms, seed, bad_image: see :func:`training_loader`.
        replace: whether another image takes the place of a skipped one; if not, None does.
    """

    def __init__(self, dataset, transforms, seed, bad_image, replace):
        self.dataset = dataset
        self.transforms = transforms
        self.seed = seed
        self.skip = bad_image == "skip"
        self.replace = replace

    def __getitem__(self, draw):
        epoch, index = draw
        seed = derive_seed(self.seed, epoch, index)
        bad = []
        for place in range(index, index + (len(self.dataset) if self.skip and self.replace else 1)):
            try:
                return self._read(place if place == index else place % len(self.dataset), seed), bad
            except ImageError as error:
                if not self.skip:
                    return error
                bad.append(str(error))
            except UserError as error:
                return error
        return UserError(f"{bad[0]}; and no other image can be read") if self.replace else (None, bad)

    def _read(self, index, seed):
        with seeded(seed):
            image, target = self.dataset[index]
            size = tuple(image.shape[-2:])
            image, target = self.transforms(image, target)
        target = {key: plain_tensor(value) for key, value in target.items()}
        return plain_tensor(image), {**target, "index": index, "original_size": size, "seed": seed}


def plain_tensor(value):
    """A tv_tensor as the plain tensor that it is."""
    return value.as_subclass(torch.Tensor) if isinstance(value, tv_tensors.TVTensor) else value
