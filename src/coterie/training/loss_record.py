"""Records loss terms on the device: their sums, and the first step at which each was not finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor


class LossRecord:
    """Sums loss terms without reading them on the host; they are read at logging steps and checkpoints.

    Args:
        accelerator: reads combine the records of all its processes.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.names: list[str] = []  # known after the first batch
        self.sums: Tensor | None = None  # of the terms since the last read, weighted by the batch's weight
        self.count = 0  # batches since then
        self.first_bad: Tensor | None = None  # first step at which each term was not finite, -1: never

    def add(self, losses: Mapping[str, Tensor], step: Tensor, weight: float = 1.0) -> None:
        """Adds the terms of one batch, on the device and in place, so that it can be captured; the caller increments ``count``.

        Args:
            losses: the terms, each a scalar.
            step: the optimizer step, a scalar.
            weight: of the batch, see :class:`coterie.data.batch.Batch`. The weights of all batches of a step have mean 1.
        """
        terms = torch.stack([loss.detach().float() for loss in losses.values()])
        if self.sums is None or self.first_bad is None:
            self.sums = torch.zeros_like(terms)
            self.first_bad = torch.full_like(terms, -1, dtype=torch.int64)
        self.names = list(losses)
        self.sums += terms * weight
        bad = ~torch.isfinite(terms) & (self.first_bad < 0)
        self.first_bad.copy_(torch.where(bad, step.long(), self.first_bad))

    def read(self) -> dict[str, float] | None:
        """Returns the mean of each term over all batches since the last read, over all processes; None if there was no batch."""
        if self.sums is None or self.count == 0:
            return None
        means = (self.accelerator.reduce(self.sums, "mean") / self.count).tolist()
        self.sums.zero_()
        self.count = 0
        return dict(zip(self.names, means, strict=True))

    def average_over_processes(self) -> None:
        """Replace each process's sums by their mean over processes, as they are after resuming from a checkpoint; later reads are unchanged."""
        if self.sums is not None:
            self.sums = self.accelerator.reduce(self.sums, "mean")

    def not_finite(self) -> tuple[int, str] | None:
        """Returns step and name of the first term that was not finite in any process; None if all were finite."""
        if self.first_bad is None:
            return None
        first_bad = self.accelerator.gather(self.first_bad[None]).amax(0).tolist()
        return min(
            ((step, name) for name, step in zip(self.names, first_bad, strict=True) if step >= 0),
            default=None,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"names": self.names, "sums": self.sums, "count": self.count, "first_bad": self.first_bad}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.names, self.count = [str(name) for name in state["names"]], int(state["count"])
        if state["sums"] is not None:
            device = self.accelerator.device
            if not state["sums"].shape == state["first_bad"].shape == (len(self.names),):
                raise ValueError("its losses are not one of each name")
            self.sums, self.first_bad = state["sums"].to(device), state["first_bad"].to(device)
