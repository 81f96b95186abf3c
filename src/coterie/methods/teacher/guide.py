"""A teacher beside an online method: a divergence from its prediction for every student."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from coterie.data.nested import Inputs, concatenated
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

    def __call__(self, logits: Tensor, inputs: Inputs) -> Tensor:
        """Weighted divergence, summed over the students.

        Args:
            logits: the students', [n, B, K].
            inputs: one batch, or a view for each student; the teacher sees what the student sees.

        Returns:
            0-d float32.
        """
        target = teacher_logits(self.teachers, inputs, self.combination)
        return self.weight * kl_divergence(logits, target, self.temperature).sum()


def teacher_logits(teachers: Teachers, inputs: Inputs, rule: Combination) -> Tensor:
    """The teachers' combined prediction, [B, K], or [n, B, K] of n views."""
    views = isinstance(inputs, list)
    batch = concatenated(inputs) if views else inputs
    combined = combined_logits(torch.stack([output.logits for output in teachers(batch)]), rule)
    return combined.unflatten(0, (len(inputs), -1)) if views else combined
