"""A teacher in an online method: every student also learns from its prediction."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from coterie.losses import kl_divergence, mean_probability
from coterie.networks.teacher import Teachers

Combination = Literal["mean_probability", "mean_logit"]


def combined_logits(logits: Tensor, rule: Combination) -> Tensor:
    """Combines several teachers' logits [m, ..., K] into one prediction, float32 [..., K]."""
    return mean_probability(logits) if rule == "mean_probability" else logits.float().mean(0)


class Guide:
    """Frozen teachers and the weight of their loss. Not a module, so that it is neither trained nor saved.

    Args:
        teachers: one or several.
        weight: weight of the divergence.
        temperature: T, for both sides.
        combination: how several teachers' predictions are combined.
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
        """Returns the weighted divergence, summed over students.

        Args:
            logits: the students', [n, B, K].
            taught: the teachers', [m, B, K], or [m, n, B, K] if each student has its own view: see :meth:`Teachers.logits`.

        Returns:
            0-d float32.
        """
        target = combined_logits(taught, self.combination)
        return self.weight * kl_divergence(logits, target, self.temperature).sum()
