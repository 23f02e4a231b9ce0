"""Data sets built from config nodes, and several data sets joined into one."""

import numpy as np
from torch.utils.data import ConcatDataset

from detlite.errors import UserError
from detlite.registry import DATASETS
from detlite.signature import accepts


def build_dataset(node, report=None):
    """Build the data set that a config node describes.

    A data set whose first parameter is ``report`` receives the function ``report``, see :mod:`detlite.data.faults`.
    """
    if report is not None and accepts(DATASETS.get(node["NAME"]), "report"):
        return DATASETS.build(node, report)
    return DATASETS.build(node)


def build_train_datasets(nodes):
    """Build and join the data sets of config nodes, see :func:`concatenate`."""
    return concatenate([build_dataset(node) for node in nodes])


def concatenate(datasets):
    """Join data sets to train on, one after the other, or return the only one.

    Image ids become the positions in the whole, because several data sets may have the same ids. A UserError is raised
    if there are no images, or the data sets' classes are not the same in the same order.
    """
    if not sum(map(len, datasets)):
        raise UserError("DATASETS.TRAIN holds no images")
    return datasets[0] if len(datasets) == 1 else _Concatenation(datasets)


class _Concatenation(ConcatDataset):
    """Several data sets of the same classes as one."""

    def __init__(self, datasets):
        super().__init__(datasets)
        self.classes = list(datasets[0].classes)
        for number, dataset in enumerate(datasets):
            if list(dataset.classes) != self.classes:
                lacking = [name for name in self.classes if name not in dataset.classes]
                added = [name for name in dataset.classes if name not in self.classes]
                difference = f"lacks {lacking} and adds {added}" if lacking or added else "has them in another order"
                raise UserError(f"DATASETS.TRAIN.{number} has other classes than DATASETS.TRAIN.0: it {difference}")
        self.sizes = np.concatenate([dataset.sizes for dataset in datasets])

    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        return image, {**target, "image_id": int(index)}
