"""One folder of images divided into those to train on and those to test on, where nobody has divided them."""

import hashlib
import math
import os
from typing import Literal

Split = Literal["all", "train", "test"]
TEST_SHARE = 5  # one image of so many is to test on


def of_split(rows, file_names, split):
    """The rows whose images belong to a split: "test" is a fifth of the images (rounded up), "train" the others.

    An image is drawn by its file's name, without its folder, so that the same names are divided alike wherever they
    lie, in whatever order and format.

    Args:
        rows: list of N.
        file_names: N strings, the file of each row's image.
        split: "all", "train" or "test".

    >>> of_split([1, 2, 3], ["b.jpg", "x/a.jpg", "c.jpg"], "test"), of_split([4, 5], ["a.jpg", "b.jpg"], "train")
    ([2], [5])
    """
    if split == "all":
        return list(rows)
    draws = [hashlib.sha256(os.path.basename(name).encode("utf-8", "surrogatepass")).digest() for name in file_names]
    order = sorted(range(len(draws)), key=draws.__getitem__)
    test = set(order[: math.ceil(len(order) / TEST_SHARE)])
    return [row for place, row in enumerate(rows) if (place in test) == (split == "test")]


def of_source(source, split):
    """What images come from, for messages.

    >>> of_source("data.json", "train"), of_source("data.json", "all")
    ('data.json (SPLIT train)', 'data.json')
    """
    return source if split == "all" else f"{source} (SPLIT {split})"
