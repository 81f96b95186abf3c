"""Matrix products in float32, also under autocast, which would round their operands and results to half precision.

Used in losses and wherever predictions are mixed; a network's layers keep autocast's precision.
"""

from __future__ import annotations

import torch
from torch import Tensor


def matmul(first: Tensor, second: Tensor) -> Tensor:
    """``first @ second`` in float32."""
    with torch.autocast(first.device.type, enabled=False):
        return first.float() @ second.float()


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """``torch.einsum`` in float32."""
    with torch.autocast(operands[0].device.type, enabled=False):
        return torch.einsum(equation, *(each.float() for each in operands))


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 unchanged."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()
