"""Division of one folder of images into training and test images."""

import hashlib
import math
import os
from typing import Literal

Split = Literal["all", "train", "test"]


def select_split(rows, file_names, split, folds=5, fold=0):
    """Select the rows of a split, from one row and one file name per image.

    "test" is one of ``folds`` parts of the images, part number ``fold``, "train" all others, and "all" everything. An
    image is drawn by its file's name without the folder, so the same names are divided in the same way in any folder,
    order and format.

    >>> names = ["b.jpg", "x/a.jpg", "c.jpg"]
    >>> select_split([1, 2, 3], names, "test"), select_split([1, 2, 3], names, "train")
    ([2], [1, 3])
    """
    if split == "all":
        return list(rows)

    # The parts are in the order of the names' hashes. Sizes differ by at most one, and an early part is the larger.
    draws = []
    for name in file_names:
        name = os.path.basename(name).encode("utf-8", "surrogatepass")
        draws.append(hashlib.sha256(name).digest())
    order = sorted(range(len(draws)), key=draws.__getitem__)
    start, end = (math.ceil(len(order) * number / folds) for number in (fold, fold + 1))
    test = set(order[start:end])
    return [row for index, row in enumerate(rows) if (index in test) == (split == "test")]
