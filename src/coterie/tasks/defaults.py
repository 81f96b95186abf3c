"""Base class with default implementations of the optional parts of a task."""

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
        """Runs the checks of all tasks: :func:`require_method`, :func:`require_validation`, and that of a first stage."""
        require_method(recipe, own_teachers)
        require_validation(recipe)
        cls.first_stage(recipe)

    @staticmethod
    def first_stage(recipe: Recipe) -> Recipe | None:
        """Returns None: methods with a first stage are not supported by default.

        Raises:
            CoterieError: the method has a first stage.
        """
        if find_method(recipe.method.name).first_stage is not None:
            raise CoterieError(f"{recipe.method.name} prunes image networks, and task={recipe.task}")
        return None

    def sharded_networks(self, method: Method) -> list[nn.Module]:
        """Returns an empty list: the task's networks are not sharded."""
        return []

    def evaluate_teachers(self, method: Method, loader: EvaluationLoader) -> list[dict[str, Any]]:
        """Returns an empty list: there are no teachers."""
        return []

    def teacher_logits(self, teachers: Teachers, loader: EvaluationLoader) -> tuple[Tensor, Tensor]:
        """Never called, because the task's loaders do not have ``repeats`` set."""
        raise NotImplementedError("the training loader says that samples repeat, and the task does not ask teachers")

    def learn_from(self, method: Method, validation: Evaluation) -> None:
        """Does nothing: no method learns from an evaluation."""

    def chance_level(self, evaluation: Evaluation) -> ChanceLevel | None:
        """Returns None: no chance level is known for detecting divergence."""
        return None

    def untrained_warning(self, on_train: Evaluation) -> str | None:
        """Returns None."""
        return None

    def final_figures(self, evaluation: Evaluation) -> dict[str, Any]:
        """Returns the figures of the evaluation."""
        return evaluation.figures

    def examples(self, evaluation: Evaluation) -> Tensor:
        """Returns no samples."""
        return torch.empty(0, dtype=torch.int64)

    def save_examples(self, folder: RunFolder, split: str, indices: Tensor) -> None:
        """Writes no samples."""
