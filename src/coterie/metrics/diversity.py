"""Diversity of a group's students over all pairs, accumulated over batches."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from coterie.metrics.sums import exact_sum, value_of, widest


class DiversitySums:
    """Accumulates the diversity of a group. Memory does not grow with the samples, and results do not depend on batches, order or processes.

    Args:
        students: number of students, n.
        device: device of the logits.

    Attributes:
        state: the sums by name, int64 [pairs, ...]; sums of disjoint sets of samples can be added.
    """

    def __init__(self, students: int, device: torch.device | str = "cpu") -> None:
        self.pairs = list(combinations(range(students), 2))
        shapes = {"samples": (), "distance": (3,), "disagreement": (), "kl": (3,), "double_fault": ()}
        self.state = {
            name: torch.zeros(len(self.pairs), *shape, dtype=torch.int64, device=device)
            for name, shape in shapes.items()
        }

    def add(self, logits: Tensor, log_probabilities: Tensor, targets: Tensor, counted: Tensor) -> None:
        """Adds a batch, without a host synchronisation.

        Args:
            logits: [n, B, K].
            log_probabilities: their log-softmax, float64 if the device supports it.
            targets: class indices [B].
            counted: bool [B], false for padding samples.
        """
        predicted, state = logits.argmax(-1), self.state
        wrong = (predicted != targets) & counted
        state["samples"] += counted.sum()
        probabilities = log_probabilities.exp() if self.pairs else log_probabilities
        for number, (first, second) in enumerate(self.pairs):
            difference = probabilities[first] - probabilities[second]
            log_ratio = log_probabilities[first] - log_probabilities[second]
            state["distance"][number] += exact_sum(torch.where(counted, difference.norm(dim=1), 0.0))
            state["kl"][number] += exact_sum(torch.where(counted, (difference * log_ratio).sum(1) / 2, 0.0))
            state["disagreement"][number] += ((predicted[first] != predicted[second]) & counted).sum()
            state["double_fault"][number] += (wrong[first] & wrong[second]).sum()

    def compute(self) -> dict[str, float]:
        """Returns the metrics, see :func:`diversity_figures`."""
        if not self.pairs:
            return {}
        state = {name: value.cpu() for name, value in self.state.items()}
        samples = state.pop("samples").double()
        sums = {name: value_of(value) if value.ndim > 1 else value.double() for name, value in state.items()}
        return {name: round(float((value / samples).mean()), 7) for name, value in sums.items()}


def diversity_figures(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Computes four measures of diversity, each a mean over the n(n-1)/2 pairs of students and over samples.

    Args:
        logits: [n, N, K].
        targets: class indices [N].

    Returns:
        ``distance``: Euclidean distance of the probability vectors, as in OKDDip and related methods (OKDDip's code uses the first three branches only; here
        all pairs); ``disagreement``: share of samples with different predicted classes; ``kl``: mean of both directions' KL divergence in nats;
        ``double_fault``: share of samples that both get wrong (Giacinto and Roli, 2001; smaller is more diverse). Empty for one student.
    """
    sums = DiversitySums(len(logits), logits.device)
    counted = torch.ones_like(targets, dtype=torch.bool)
    sums.add(logits, torch.log_softmax(widest(logits), dim=-1), targets, counted)
    return sums.compute()
