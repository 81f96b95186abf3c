"""What a task does where it has nothing of its own: a base class that says nothing in place of something, and does the plain thing."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from coterie.data.batch import EvaluationLoader
from coterie.errors import CoterieError
from coterie.methods import find_method
from coterie.methods.method import Method
from coterie.networks.teacher import Teachers
from coterie.recipe import Recipe
from coterie.run_folder import RunFolder
from coterie.tasks.construction import require_method
from coterie.tasks.evaluation import ChanceLevel, Evaluation
from coterie.tasks.validation import require_validation


class TaskDefaults:
    """The parts of :class:`coterie.tasks.task.Task` and :class:`coterie.tasks.task.TaskKind` that a task may leave out."""

    chosen: Mapping[str, str] = MappingProxyType({})

    @classmethod
    def require(cls, recipe: Recipe, own_teachers: int = 0) -> None:
        """What is wrong whatever the task: see :func:`require_method` and :func:`require_validation`."""
        require_method(recipe, own_teachers)
        require_validation(recipe)
        cls.first_stage(recipe)

    @staticmethod
    def first_stage(recipe: Recipe) -> Recipe | None:
        """No method has a first stage.

        Raises:
            CoterieError: the method has one.
        """
        if find_method(recipe.method.name).first_stage is not None:
            raise CoterieError(f"{recipe.method.name} prunes image networks, and task={recipe.task}")
        return None

    def sharded_networks(self, method: Method) -> list[nn.Module]:
        """The task's networks are not shared out over processes."""
        return []

    def evaluate_teachers(self, method: Method, loader: EvaluationLoader) -> list[dict[str, Any]]:
        """There are no teachers."""
        return []

    def teacher_logits(self, teachers: Teachers, loader: EvaluationLoader) -> tuple[Tensor, Tensor]:
        """Nobody asks, since the task's loaders never say that samples repeat."""
        raise NotImplementedError("the training loader says that samples repeat, and the task does not ask teachers")

    def learn_from(self, method: Method, validation: Evaluation) -> None:
        """No method learns from an evaluation."""

    def chance_level(self, evaluation: Evaluation) -> ChanceLevel | None:
        """No guess is known beside which a training would be told to have diverged."""
        return None

    def untrained_warning(self, on_train: Evaluation) -> str | None:
        """Nothing is said."""
        return None

    def final_figures(self, evaluation: Evaluation) -> dict[str, Any]:
        """Those of the evaluation."""
        return evaluation.figures

    def examples(self, evaluation: Evaluation) -> Tensor:
        """No sample is worth a look."""
        return torch.empty(0, dtype=torch.int64)

    def save_examples(self, folder: RunFolder, split: str, indices: Tensor) -> None:
        """No sample is written."""
