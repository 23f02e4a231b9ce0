"""Division of one folder of images into training and test images."""

import hashlib
import math
import os
from typing import Literal

Split = Literal["all", "train", "test"]
TEST_SHARE = 5  # one of this many images is for testing


def select_split(rows, file_names, split):
    """Select the rows of a split, from one row and one file name per image.

    "test" is a fifth of the images, rounded up, "train" all others, and "all" everything. An image is drawn by its
    file's name without the folder, so the same names are divided in the same way in any folder, order and format.

    >>> names = ["b.jpg", "x/a.jpg", "c.jpg"]
    >>> select_split([1, 2, 3], names, "test"), select_split([1, 2, 3], names, "train")
    ([2], [1, 3])
    """
    if split == "all":
        return list(rows)

    # The fifth with the lowest hashes is for testing.
    draws = []
    for name in file_names:
        name = os.path.basename(name).encode("utf-8", "surrogatepass")
        draws.append(hashlib.sha256(name).digest())
    order = sorted(range(len(draws)), key=draws.__getitem__)
    test = set(order[: math.ceil(len(order) / TEST_SHARE)])
    return [row for index, row in enumerate(rows) if (index in test) == (split == "test")]
