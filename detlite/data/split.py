"""One folder of images divided into those to train on and those to test on, where nobody has divided them."""

import hashlib
import math
import os
from typing import Literal

import numpy as np

Split = Literal["all", "train", "test"]
TEST_SHARE = 5  # one image of so many is to test on


def in_split(file_names, split):
    """Which images belong to a split: "test" is a fifth of them (rounded up), "train" the others.

    An image is drawn by its file's name, without its folder, so that the same names are divided alike wherever they
    lie, in whatever order and format.

    Args:
        file_names: N strings.
        split: "all", "train" or "test".

    Returns:
        (N,) bool array.

    >>> in_split(["b.jpg", "x/a.jpg", "c.jpg"], "test"), in_split(["a.jpg", "b.jpg"], "train")
    (array([False,  True, False]), array([False,  True]))
    """
    if split == "all":
        return np.full(len(file_names), True)
    draws = [hashlib.sha256(os.path.basename(name).encode("utf-8", "surrogatepass")).digest() for name in file_names]
    order = sorted(range(len(draws)), key=draws.__getitem__)
    is_test = np.full(len(file_names), False)
    is_test[order[: math.ceil(len(order) / TEST_SHARE)]] = True
    return is_test if split == "test" else ~is_test
