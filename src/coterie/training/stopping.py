"""Selects the best epoch by validation, and stops training early when it no longer improves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from coterie.errors import CoterieError
from coterie.recipe import Recipe
from coterie.tasks.figures import Figure


def resolve_selection(recipe: Recipe) -> Recipe:
    """Returns the recipe with ``training.select=auto`` resolved: the best epoch if ``training.patience`` is set, otherwise the last one."""
    if recipe.training.select != "auto":
        return recipe
    chosen = "best" if recipe.training.patience is not None else "last"
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"select": chosen})})


class BestEpoch:
    """Tracks the best evaluation on the validation split.

    Args:
        figure: the task's primary figure, by which epochs are compared.
        patience: number of evaluations without improvement after which training ends; None: never.
        restarts: numbers of finished epochs at which the learning rate, and with it patience, starts anew.

    Attributes:
        score, epoch: best figure of the student that would be deployed, and its epoch; -1 before the first evaluation.
        since: number of evaluations since then, none of which was better.
    """

    def __init__(self, figure: Figure, patience: int | None = None, restarts: Sequence[int] = ()) -> None:
        if figure.better is None:
            raise CoterieError(
                f"the task's first figure, {figure.key!r}, tells no epoch from a better one: expected better='higher' or 'lower'"
            )
        self.figure, self.patience, self.restarts = figure, patience, restarts
        self._stretch = 0
        self.score, self.epoch, self.since = -math.inf if figure.better == "higher" else math.inf, -1, 0

    def add(self, figures: dict[str, Any], epoch: int) -> bool:
        """Adds the evaluation after ``epoch``; returns whether it is better than all before it."""
        if self._stretch != self._stretch_of(epoch):
            self._stretch, self.since = self._stretch_of(epoch), 0
        score = float(figures["deployed"][self.figure.key])
        if math.isfinite(score) and self.figure.is_better(score, self.score):
            self.score, self.epoch, self.since = score, epoch, 0
            return True
        self.since += 1
        return False

    def _stretch_of(self, epoch: int) -> int:
        return sum(restart <= epoch for restart in self.restarts)

    def is_over(self, epoch: int) -> bool:
        """Whether patience has run out before ``epoch``."""
        return self.patience is not None and self.since >= self.patience and self._stretch == self._stretch_of(epoch)

    def explain(self, epoch: int, epochs: int) -> str:
        """Returns why training ends after ``epoch`` of the planned ``epochs``."""
        return (
            f"validation {self.figure.label} has not been better than epoch {self.epoch + 1}'s {self.figure.show(self.score)} for {self.since} evaluations: training ends "
            f"after epoch {epoch} of {epochs} (training.patience); the learning rate was planned for {epochs}"
        )
