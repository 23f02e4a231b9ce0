"""Build data sets from config nodes, and join several data sets into one."""

from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset

from detlite.errors import UserError
from detlite.registry import DATASETS
from detlite.signature import accepts


def build_dataset(node: dict, report: object | None = None) -> Any:
    """Build the data set that a config node describes.

    A data set with a parameter ``report`` calls this function for each kind of faults (see :mod:`detlite.data.faults`).
    """
    part = DATASETS.get(node["NAME"])
    if report is not None and accepts(getattr(part, "from_config", part), "report"):
        return DATASETS.build(node, report)
    return DATASETS.build(node)


def build_train_datasets(nodes: list) -> Any:
    """Build and join the data sets of config nodes, see :func:`concatenate`."""
    return concatenate([build_dataset(node) for node in nodes])


def concatenate(datasets: list, key: str = "DATASETS.TRAIN") -> Any:
    """Join data sets, in their order; messages name them by ``key``. A single data set is returned unchanged.

    In joined data sets, an image's id is its index, because the original ids may occur twice. Raises a UserError if a
    data set has no images, or if the data sets do not have the same classes in the same order.
    """
    if not sum(map(len, datasets)):
        raise UserError(f"{key} holds no images")
    return datasets[0] if len(datasets) == 1 else _Concatenation(datasets, key)


class _Concatenation(ConcatDataset):
    """Several data sets of the same classes as one."""

    def __init__(self, datasets, key):
        super().__init__(datasets)
        self.classes = list(datasets[0].classes)
        for number, dataset in enumerate(datasets):
            if not len(dataset):
                raise UserError(f"{key}.{number} holds no images")
            if list(dataset.classes) != self.classes:
                lacking = [name for name in self.classes if name not in dataset.classes]
                added = [name for name in dataset.classes if name not in self.classes]
                difference = f"lacks {lacking} and adds {added}" if lacking or added else "has them in another order"
                raise UserError(f"{key}.{number} has other classes than {key}.0: it {difference}")
        self.sizes = np.concatenate([dataset.sizes for dataset in datasets])

    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        return image, {**target, "image_id": int(index)}
