"""An optimizer that moves once in several steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class RareAdamW(torch.optim.AdamW):
    """AdamW that moves at the first of every so many calls; the other calls leave weights and moments alone.

    The count is part of its state, so a resumed training goes on as it would have. Nothing in a step depends on it: a compiled or recorded step stays one.

    Args:
        parameters: as AdamW takes them.
        every: calls for each move, at least 1.
        options: AdamW's.
    """

    def __init__(self, parameters: Iterable[Tensor], every: int, **options: Any) -> None:
        super().__init__(parameters, **options)
        self.every = every
        self.param_groups[0]["calls"] = 0

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move, or count only."""
        calls = self.param_groups[0]["calls"]
        self.param_groups[0]["calls"] = calls + 1
        return super().step(closure) if calls % self.every == 0 else None
