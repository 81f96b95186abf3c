"""Activation checkpointing: activations are recomputed in the backward pass instead of stored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, values: tuple[Any, ...]) -> Any:
    """Computes ``module(*values)`` and stores only inputs and outputs: the same gradients with less memory and more time.

    The second pass draws the same random numbers and does not update running statistics, since the first pass already has.
    """
    return checkpoint(
        module,
        *values,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), _statistics_at_rest(module)),
    )


@contextlib.contextmanager
def _statistics_at_rest(module: nn.Module) -> Iterator[None]:
    """Restores buffers afterwards, since the same batch must not update statistics twice."""
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
