"""A teacher beside an online method: a divergence from its prediction for every student."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from coterie.losses import kl_divergence, mean_probability
from coterie.networks.teacher import Teachers

Combination = Literal["mean_probability", "mean_logit"]


def combined_logits(logits: Tensor, rule: Combination) -> Tensor:
    """One prediction of several teachers' logits [m, ..., K]: float32 [..., K]."""
    return mean_probability(logits) if rule == "mean_probability" else logits.float().mean(0)


class Guide:
    """Frozen teachers and how much their word counts. Not a module: nothing of it is trained or saved.

    Args:
        teachers: one or several.
        weight: of the divergence.
        temperature: T of both sides.
        combination: of several teachers' predictions.
    """

    def __init__(
        self,
        teachers: Teachers,
        *,
        weight: float = 1.0,
        temperature: float = 4.0,
        combination: Combination = "mean_probability",
    ) -> None:
        self.teachers = teachers
        self.weight = weight
        self.temperature = temperature
        self.combination: Combination = combination

    def __call__(self, logits: Tensor, taught: Tensor) -> Tensor:
        """Weighted divergence, summed over the students.

        Args:
            logits: the students', [n, B, K].
            taught: the teachers', [m, B, K], or [m, n, B, K] where each student has a view of its own: see :meth:`Teachers.logits`.

        Returns:
            0-d float32.
        """
        target = combined_logits(taught, self.combination)
        return self.weight * kl_divergence(logits, target, self.temperature).sum()
