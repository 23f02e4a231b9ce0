"""Seeds for random draws that depend on what is drawn for, never on who draws or in which order."""

import numpy as np


def derive_seed(*numbers):
    """One 63-bit seed from several non-negative integers, such as (SEED, epoch, image index).

    The same numbers give the same seed on every machine, in every process; numbers that differ
    anywhere give seeds that have nothing to do with each other (numpy's SeedSequence).

    >>> derive_seed(0, 1, 2) == derive_seed(0, 1, 2) != derive_seed(0, 2, 1)
    True
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
