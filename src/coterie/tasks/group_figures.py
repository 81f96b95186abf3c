"""Figures of a group of classifiers, accumulated batch by batch: for every student, three ensembles, and their diversity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from coterie.losses import mean_probability
from coterie.metrics.classification import CHUNK_ELEMENTS, ClassificationSums, mean_figures
from coterie.metrics.diversity import DiversitySums
from coterie.metrics.sums import exact_sum, value_of, widest


class GroupSums:
    """Sums over one split, in memory that does not grow with the number of samples. Figures do not depend on batches, order or processes.

    Args:
        students: number of students, n.
        device: device of the logits.
    """

    def __init__(self, students: int, device: torch.device | str = "cpu") -> None:
        self.students = students
        self.classifiers = ClassificationSums(students + 3, device)
        self.diversity = DiversitySums(students, device)
        self.not_finite = torch.zeros(students, dtype=torch.int64, device=device)
        self.samples = torch.zeros((), dtype=torch.int64, device=device)
        self.statistics: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(
        self, logits: Tensor, ensemble: Tensor, statistics: dict[str, Tensor], targets: Tensor, counted: Tensor
    ) -> None:
        """Add a batch. Nothing is read on the host.

        Args:
            logits: logits of every student, float32 [n, B, K].
            ensemble: logits of the method's own ensemble, float32 [B, K].
            statistics: diagnostics of each sample, name -> [B] or [B, m].
            targets: class indices [B].
            counted: bool [B], false for padding samples.
        """
        self.samples += counted.sum()
        self.not_finite += ((~logits.isfinite()).any(-1) & counted).sum(-1)
        for name, values in statistics.items():
            sums = exact_sum(torch.where(counted, values.movedim(0, -1), 0.0))
            self.statistics[name] = self.statistics[name] + sums if name in self.statistics else sums
        for part in _chunks(logits):
            own, its_targets, its_counted = logits[:, part], targets[part], counted[part]
            ensembles = [mean_probability(own), own.mean(0), ensemble[part]]
            every = torch.cat([own, torch.stack(ensembles)])
            log_probabilities = torch.log_softmax(widest(every), dim=-1)
            self.classifiers.add(every, log_probabilities, its_targets, its_counted)
            self.diversity.add(own, log_probabilities[: self.students], its_targets, its_counted)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Returns the sums, int64; combine processes with ``sums.load(accelerator.reduce(sums.state(), "sum"))``."""
        return {
            "classifiers": self.classifiers.state,
            "diversity": self.diversity.state,
            "statistics": self.statistics,
            "whole": {"samples": self.samples, "not_finite": self.not_finite},
        }

    def load(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Replace the sums."""
        self.classifiers.state, self.diversity.state = state["classifiers"], state["diversity"]
        self.statistics = state["statistics"]
        self.samples, self.not_finite = state["whole"]["samples"], state["whole"]["not_finite"]

    def first_not_finite(self) -> int | None:
        """Returns the first student with a prediction that is not finite, at any sample; None if there is none."""
        found = [number for number, count in enumerate(self.not_finite.tolist()) if count]
        return found[0] if found else None

    def compute(self, deployed: int) -> dict[str, Any]:
        """Computes the figures of :func:`group_figures`, and ``statistics``, the mean of each over the samples.

        Args:
            deployed: index of the deployed student.
        """
        found = self.classifiers.compute()
        students, ensembles = found[: self.students], found[self.students :]
        return {
            "deployed": {"student": deployed, **students[deployed]},
            "students": students,
            "mean_student": mean_figures(students),
            "ensemble": dict(zip(("mean_probability", "mean_logit", "method"), ensembles, strict=True)),
            "diversity": self.diversity.compute(),
            "statistics": {
                name: (value_of(sums.cpu()) / self.samples.cpu()).tolist() for name, sums in self.statistics.items()
            },
        }


def group_figures(logits: Tensor, ensemble: Tensor, targets: Tensor, deployed: int) -> dict[str, Any]:
    """Computes figures of every student, their mean, three ensembles and their diversity over a whole data set.

    Args:
        logits: [n, N, K].
        ensemble: logits of the method's own ensemble, [N, K].
        targets: class indices [N].
        deployed: index of the deployed student.

    Returns:
        ``deployed``, ``students``, ``mean_student``, ``ensemble`` and ``diversity``, as in summary.json.
    """
    sums = GroupSums(len(logits), logits.device)
    sums.add(logits, ensemble, {}, targets, torch.ones_like(targets, dtype=torch.bool))
    return {key: value for key, value in sums.compute(deployed).items() if key != "statistics"}


def _chunks(logits: Tensor) -> Iterator[slice]:
    """Yields slices of the samples that are small enough for float64 copies."""
    students, samples, classes = logits.shape
    size = max(1, CHUNK_ELEMENTS // ((students + 3) * classes))
    return (slice(at, at + size) for at in range(0, samples, size))
