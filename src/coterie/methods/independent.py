"""The controls: one network on its own, and a group whose students only share a trunk."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from coterie.methods.group_method import GroupMethod
from coterie.methods.progress import Progress


class Independent(GroupMethod):
    """Students that learn from the labels alone; the ensemble is the mean of their probabilities.

    It tells what branches and their ensemble give without any distillation.
    """

    def compare(
        self, logits: Tensor, taught: Tensor | None, targets: Tensor, progress: Progress | None = None
    ) -> dict[str, Tensor]:
        return self.supervised(logits, taught, targets)


class Baseline(Independent):
    """One network that learns from the labels alone: what every other method must beat."""

    recipe_name: ClassVar[str | None] = "baseline"
    default_branches: ClassVar[int] = 1
    default_at: ClassVar[str | None] = None
    max_students: ClassVar[int | None] = 1
