"""A module whose activations are computed again in the backward pass instead of being kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, values: tuple[Any, ...]) -> Any:
    """``module(*values)``, of which only the values and the result are kept: the same gradients for less memory and more time.

    The second pass draws the same random numbers, and leaves running statistics alone, which the first has moved.
    """
    return checkpoint(
        module,
        *values,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), _statistics_at_rest(module)),
    )


@contextlib.contextmanager
def _statistics_at_rest(module: nn.Module) -> Iterator[None]:
    """Put buffers back afterwards: a second look at the same batch is no second batch."""
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
