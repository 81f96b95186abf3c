"""Sums that come out the same in whatever order, batches and processes they are added up: integers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

WITHOUT_FLOAT64 = {"mps"}  # devices
STEP = 2.0**-36  # of the fractions: half of it, 7e-12, is what one value is off at most
LARGEST = 2.0**36  # in either direction, so that 2^27 samples fit 63 bits


def widest(values: Tensor) -> Tensor:
    """Values as float64, or as float32 on a device that has no wider numbers (Apple's GPUs): figures are then as exact as those."""
    return values.float() if values.device.type in WITHOUT_FLOAT64 else values.double()


def exact_sum(values: Tensor) -> Tensor:
    """The sum over the last axis, int64 [..., N] to [..., 3]: of whole parts, of fractions in steps of 2^-36, and how many values are not finite.

    Such sums add up, those of parts to that of the whole. Values beyond 2^36 count as 2^36. Powers of two scale without rounding, so that float32 values have
    the same sum whether they are widened or not.

    >>> exact_sum(torch.tensor([1.5, -0.25, math.inf])).tolist() == [0, 5 * 2**34, 1]
    True
    """
    finite = values.isfinite()
    wide = widest(torch.where(finite, values, 0.0)).clamp(-LARGEST, LARGEST)
    whole = wide.floor()
    parts = ((wide - whole) / STEP).round()
    return torch.stack([whole.long().sum(-1), parts.long().sum(-1), (~finite).sum(-1)], dim=-1)


def value_of(sums: Tensor) -> Tensor:
    """What was summed, int64 [..., 3] to float64 [...] on the CPU; nan where a value was not finite."""
    sums = sums.cpu()
    found = sums[..., 0].double() + sums[..., 1].double() * STEP
    return torch.where(sums[..., 2] > 0, math.nan, found)
