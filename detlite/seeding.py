"""Seeds for random draws that depend on what is drawn for, never on who draws or in which order."""

import contextlib
import hashlib
import random

import numpy as np
import torch


def derive_seed(*numbers):
    """One 63-bit seed from several integers, such as (SEED, epoch, image index).

    The same numbers give the same seed on every machine, in every process; numbers that differ anywhere give seeds
    that have nothing to do with each other.

    >>> derive_seed(0, 1, 2) == derive_seed(0, 1, 2) != derive_seed(0, 2, 1)
    True
    """
    return int.from_bytes(hashlib.blake2b(repr([*map(int, numbers)]).encode(), digest_size=8).digest(), "big") >> 1


@contextlib.contextmanager
def torch_seeded(seed):
    """Seed torch's generators, the CPU's and the current GPU's, and restore their states afterwards."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # all others stay untouched
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def seeded(seed):
    """Seed Python's, numpy's and torch's CPU generators for a while, then put them back where they were."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs'
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
