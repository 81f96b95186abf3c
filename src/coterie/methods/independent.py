"""The controls: a single network, and a group without distillation."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from coterie.methods.group_method import GroupMethod
from coterie.methods.progress import Progress


class Independent(GroupMethod):
    """Students that learn from the labels only; the ensemble is their mean probability.

    A control that shows what branches and their ensemble contribute without distillation.
    """

    def compare(
        self, logits: Tensor, taught: Tensor | None, targets: Tensor, progress: Progress | None = None
    ) -> dict[str, Tensor]:
        return self.supervised(logits, taught, targets)


class Baseline(Independent):
    """One network that learns from the labels only: the baseline of all other methods."""

    recipe_name: ClassVar[str | None] = "baseline"
    default_branches: ClassVar[int] = 1
    default_at: ClassVar[str | None] = None
    max_students: ClassVar[int | None] = 1
