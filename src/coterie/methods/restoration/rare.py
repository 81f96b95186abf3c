"""AdamW that updates once in several steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class RareAdamW(torch.optim.AdamW):
    """AdamW that updates at the first of every ``every`` calls; the other calls change neither weights nor moments.

    The count is part of the state, so a resumed training continues exactly. The training step does not depend on the count, so a compiled or captured step
    stays valid.

    Args:
        parameters: as for AdamW.
        every: calls for each update, at least 1.
        options: AdamW's.
    """

    def __init__(self, parameters: Iterable[Tensor], every: int, **options: Any) -> None:
        super().__init__(parameters, **options)
        self.every = every
        self.param_groups[0]["calls"] = 0

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates the parameters, or only counts the call."""
        calls = self.param_groups[0]["calls"]
        self.param_groups[0]["calls"] = calls + 1
        return super().step(closure) if calls % self.every == 0 else None
