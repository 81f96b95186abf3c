"""Randomness as a pure function: seeds derived from names, and uniform numbers from (seed, sample index, stream).

Seeds and uniform numbers do not read or advance a global generator. Data order and augmentation therefore do not depend on the
method, on the number of processes, or on whether a run was interrupted.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

# Constants of SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014), as signed 64-bit integers.
_MULTIPLY_1 = -0x40A7B892E31B1A47
_MULTIPLY_2 = -0x6B2FB644ECCEEE15
_GOLDEN = -0x61C8864680B583EB
_MASK_63 = (1 << 63) - 1


def derive_seed(*parts: int | str) -> int:
    """Return a non-negative 63-bit seed that depends on every part and on their order.

    >>> derive_seed(0, "order", 3) == derive_seed(0, "order", 3) != derive_seed(0, "order", 4)
    True
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & _MASK_63


def seed_generator(seed: int, device: torch.device) -> None:
    """Seed torch's global generators, as ``torch.manual_seed`` does.

    On a CPU only the CPU's is seeded: for backends that are not initialised, ``torch.manual_seed`` records a traceback at every call.
    """
    (torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed)(seed)


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64; torch's shift is arithmetic."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift_right(value, 30)) * _MULTIPLY_1
    value = (value ^ _shift_right(value, 27)) * _MULTIPLY_2
    return value ^ _shift_right(value, 31)


def uniform(seed: int, indices: Tensor, stream: int | Tensor) -> Tensor:
    """Draw one number in [0, 1) for each index, the same on every device.

    Args:
        seed: from :func:`derive_seed`, usually of the run's seed and the epoch.
        indices: int64, any shape: the sample's index in its data set.
        stream: which of a sample's independent draws (crop row, crop column, flip, ...); int64 [S, 1] for several at once.

    Returns:
        float32 of the shape of ``indices``, multiples of 2**-24; [S, B] for several streams and ``indices`` [B].
    """
    mixed = _mix(_mix(indices * _GOLDEN + stream) + seed)
    return _shift_right(mixed, 40).to(torch.float32) * 2.0**-24


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context in which torch's global CPU generator is seeded with ``seed``; its state is restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextlib.contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Context that seeds Python's, NumPy's and torch's generators for one image and restores them: transforms draw from all three."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
