"""Seeds that depend on the purpose of a draw, never on its process or order."""

import contextlib
import hashlib
import pickle
import random
from collections.abc import Iterator

import numpy as np
import torch


def derive_seed(*numbers):
    """Derive a 63-bit seed from several integers, such as (SEED, epoch, image index).

    Equal numbers give equal seeds in every process and on every machine. Different numbers give unrelated seeds.

    >>> derive_seed(0, 1, 2) == derive_seed(0, 1, 2) != derive_seed(0, 2, 1)
    True
    """
    digest = hashlib.blake2b(repr([*map(int, numbers)]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_all(seed):
    """Seed Python's, numpy's and all of torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def torch_seeded(seed):
    """Seed torch's generators of the CPU and the current GPU, and restore them after."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # not the other GPUs
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's CPU generators, and restore them after."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)


def random_state():
    """Return the state of Python's, numpy's and torch's CPU generators; every draw changes it."""
    return pickle.dumps((random.getstate(), np.random.get_state(), torch.get_rng_state().numpy()))
