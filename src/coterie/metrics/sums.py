"""Exact sums as integers, independent of the order, batches and processes in which they are added."""

from __future__ import annotations

import math

import torch
from torch import Tensor

WITHOUT_FLOAT64 = {"mps"}  # devices
STEP = 2.0**-36  # resolution of the fractions; the largest error of one value is half of it, 7e-12
LARGEST = 2.0**36  # largest magnitude, so that 2^27 samples fit 63 bits


def widest(values: Tensor) -> Tensor:
    """Returns values as float64, or as float32 on devices without float64 (Apple's GPUs), where metrics have float32 precision."""
    return values.float() if values.device.type in WITHOUT_FLOAT64 else values.double()


def exact_sum(values: Tensor) -> Tensor:
    """Sums over the last axis, [..., N] to int64 [..., 3]: whole parts, fractions in steps of 2^-36, and the number of non-finite values.

    Such sums of parts can be added to give the sum of the whole. Values beyond 2^36 count as 2^36. Scaling by powers of two does not round, so float32 values
    have the same sum whether they are widened or not.

    >>> exact_sum(torch.tensor([1.5, -0.25, math.inf])).tolist() == [0, 5 * 2**34, 1]
    True
    """
    finite = values.isfinite()
    wide = widest(torch.where(finite, values, 0.0)).clamp(-LARGEST, LARGEST)
    whole = wide.floor()
    parts = ((wide - whole) / STEP).round()
    return torch.stack([whole.long().sum(-1), parts.long().sum(-1), (~finite).sum(-1)], dim=-1)


def value_of(sums: Tensor) -> Tensor:
    """Converts sums, int64 [..., 3], to float64 [...] on the CPU; nan if a value was not finite."""
    sums = sums.cpu()
    found = sums[..., 0].double() + sums[..., 1].double() * STEP
    return torch.where(sums[..., 2] > 0, math.nan, found)
