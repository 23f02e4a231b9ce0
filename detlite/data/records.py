"""Records of a data set, transformed with random numbers of the draw."""

import torch
from torchvision import tv_tensors

from detlite.data.faults import ImageError
from detlite.errors import UserError
from detlite.guard import PartError, checking_parts, part_error
from detlite.seeding import derive_seed, seeded


class Records:
    """Transformed records by draw, an (epoch, index) or (epoch, index, repeat).

    ``records[draw]`` is ((image, target), messages about bad images). A UserError is returned, not raised, because a
    DataLoader would replace its message by the worker's traceback. For the arguments, see
    :func:`training_loader`; with ``replace``, another image replaces a bad one, otherwise None replaces the pair.
    """

    def __init__(self, dataset, transforms, seed, bad_image, replace):
        self.dataset = dataset
        self.transforms = transforms
        self.seed = seed
        self.skip = bad_image == "skip"
        self.replace = replace
        self.is_first = True  # in this process

    def __getitem__(self, draw):
        _, first, *_ = draw
        seed = derive_seed(self.seed, *draw)
        count = len(self.dataset)
        attempts = count if self.skip and self.replace else 1

        # The next images of the data set replace bad ones.
        bad = []
        for index in range(first, first + attempts):
            try:
                return self._read(index % count, seed), bad
            except ImageError as error:
                if not self.skip:
                    return error
                bad.append(str(error))
            except BaseException as error:
                named = part_error(error)
                if named:
                    return PartError(f"{named}; image {self._name(index % count)}")
                if isinstance(error, UserError):
                    return error
                raise
        if self.replace:
            return UserError(f"{bad[0]}; and no other image can be read")
        return None, bad

    def _name(self, index):
        """Return the file of an image, or its number in the data set."""
        return self.dataset.image_file(index) if hasattr(self.dataset, "image_file") else index

    def _read(self, index, seed):
        with seeded(seed), checking_parts(self.is_first):
            image, target = self.dataset[index]
            size = tuple(image.shape[-2:])
            image, target = transform_record(self.transforms, image, target)
        self.is_first = False
        target = {key: plain_tensor(value) for key, value in target.items()}
        return plain_tensor(image), {**target, "index": index, "original_size": size, "seed": seed}


def transform_record(transforms, image, target):
    """Transform an image and its target.

    Boxes to ignore pass the transforms together with the objects, at label -1, because some transforms drop boxes.
    """
    if "ignored" not in target:
        return transforms(image, target)
    target = dict(target)
    ignored = target.pop("ignored")
    boxes = tv_tensors.wrap(torch.cat([target["boxes"], ignored]), like=target["boxes"])
    labels = torch.cat([target["labels"], torch.full((len(ignored),), -1)])
    image, target = transforms(image, {**target, "boxes": boxes, "labels": labels})

    boxes, labels = target["boxes"], target["labels"]
    is_object = labels >= 0
    return image, {**target, "boxes": boxes[is_object], "labels": labels[is_object], "ignored": boxes[~is_object]}


def plain_tensor(value: torch.Tensor) -> torch.Tensor:
    """Convert a tv_tensor to a plain tensor, and return any other value unchanged."""
    return value.as_subclass(torch.Tensor) if isinstance(value, tv_tensors.TVTensor) else value
