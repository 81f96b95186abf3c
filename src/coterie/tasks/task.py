"""The protocols of tasks that the loop, the run folder and the comparison use, and finding the task of a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from accelerate import Accelerator
from torch import Tensor, nn

from coterie.data.batch import EvaluationLoader, Loaders
from coterie.methods.method import Method
from coterie.networks.branching import NetworkSource
from coterie.networks.teacher import Teachers
from coterie.recipe import Recipe
from coterie.run_folder import RunFolder
from coterie.tasks import find_part
from coterie.tasks.evaluation import ChanceLevel, Deployment, Evaluation
from coterie.tasks.prediction import Answer


class Task(Protocol):
    """A task set up for a recipe: provides batches, builds the method, evaluates it, and saves its own files."""

    @property
    def recipe(self) -> Recipe:
        """The run's settings, with every ``auto`` resolved that depends on data or networks."""
        ...

    @property
    def chosen(self) -> Mapping[str, str]:
        """Settings that were ``auto``, by full name, with the reasons of their values."""
        ...

    @property
    def data(self) -> Loaders: ...

    @property
    def network_names(self) -> list[str]:
        """Names of the students' networks; empty for a custom network."""
        ...

    @property
    def sample(self) -> str:
        """What a sample is called."""
        ...

    @property
    def sample_size(self) -> str:
        """Size of the network's inputs in words, such as "32x32 pixels, 3 channels"."""
        ...

    def build_method(self) -> Method: ...

    def sharded_networks(self, method: Method) -> list[nn.Module]:
        """Returns the networks of students and teachers that ``training.shard`` shards; empty if the task does not support it.

        Each is called as a whole in training and evaluation. All processes then call :meth:`save_examples`, and the main process writes.
        """
        ...

    def evaluate(self, method: Method, loader: EvaluationLoader) -> Evaluation: ...

    def evaluate_teachers(self, method: Method, loader: EvaluationLoader) -> list[dict[str, Any]]: ...

    def teacher_logits(self, teachers: Teachers, loader: EvaluationLoader) -> tuple[Tensor, Tensor]: ...

    def choose_deployed(self, method: Method, validation: Evaluation | None) -> Deployment: ...

    def learn_from(self, method: Method, validation: Evaluation) -> None:
        """Let the method learn from an evaluation of the validation split, see :meth:`coterie.methods.group_method.GroupMethod.after_validation`."""
        ...

    def chance_level(self, evaluation: Evaluation) -> ChanceLevel | None:
        """Returns the figure by which the loop detects divergence; None: it does not."""
        ...

    def untrained_warning(self, on_train: Evaluation) -> str | None:
        """Returns a warning if the deployed student is no better on its own training samples than a trivial prediction; else None."""
        ...

    def final_figures(self, evaluation: Evaluation) -> dict[str, Any]:
        """Returns the figures of a run's final evaluation, with additional ones that are computed only there."""
        ...

    def examples(self, evaluation: Evaluation) -> Tensor:
        """Returns the samples to save for inspection, int64 [m]: their indices in the split."""
        ...

    def save_student(self, folder: RunFolder, network: nn.Module, method: Method, figures: dict[str, Any]) -> None:
        """Write the deployed student and everything needed to load it."""
        ...

    def save_examples(self, folder: RunFolder, split: str, indices: Tensor) -> None:
        """Write samples of a split for inspection."""
        ...


class TaskKind(Protocol):
    """The class of a task, before it is set up."""

    def __call__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        network: NetworkSource | None = None,
        datasets: Any = None,
        *,
        teachers: list[nn.Module] | None = None,
    ) -> Task:
        """Sets the task up for training."""
        ...

    def for_evaluation(
        self, recipe: Recipe, accelerator: Accelerator, folder: RunFolder, datasets: Any = None, whole: bool = False
    ) -> Task:
        """Sets the task up to evaluate a finished run, with samples prepared as in that run.

        With ``whole``, data without splits, which are not the run's own, are evaluated whole.
        """
        ...

    def require(self, recipe: Recipe, own_teachers: int = 0) -> None:
        """Refuse settings that the task does not support, as far as this can be checked without data and networks.

        Args:
            recipe: the recipe, as it was read.
            own_teachers: number of teachers that are passed as modules.

        Raises:
            CoterieError: settings, method or teachers do not fit the task, or each other.
        """
        ...

    def first_stage(self, recipe: Recipe) -> Recipe | None:
        """Returns the recipe of the method's first stage, whose student then becomes the teacher; None if there is no first stage.

        Raises:
            CoterieError: the method's first stage does not support these networks or teachers.
        """
        ...

    def rebuild_method(self, recipe: Recipe, description: dict[str, Any], network: NetworkSource | None) -> Method:
        """Builds a finished run's method without its weights.

        Args:
            recipe: the run's recipe.
            description: content of its ``student.json``.
            network: the untrained network, if the run was trained on a custom module.
        """
        ...


class Deployed(Protocol):
    """A module of functions for finished runs; it imports nothing that only training or evaluation needs."""

    def describe_network(self, recipe: Recipe, description: dict[str, Any], number: int) -> dict[str, Any]:
        """Describes how one of a finished run's students is built, with the keys of ``student.json``.

        Args:
            recipe: the run's recipe.
            description: description of its deployed student.
            number: index of the student.
        """
        ...

    def is_one(self, samples: Any) -> bool:
        """Whether ``samples`` is a single sample."""
        ...

    def predict(
        self, folder: RunFolder, network: nn.Module, description: dict[str, Any], samples: Sequence[Any]
    ) -> Iterator[Answer]:
        """Yields an answer for each sample, in order. A task's own options are additional keyword-only arguments.

        Args:
            folder: folder of a finished run.
            network: its deployed student, on the CPU.
            description: content of its ``student.json``.
            samples: samples as found by the task's ``inputs``, or as passed to :func:`coterie.predict`.
        """
        ...

    def load_student(self, folder: RunFolder, description: dict[str, Any], network: nn.Module | None) -> nn.Module:
        """Loads a finished run's deployed student with its weights.

        Args:
            folder: the run folder.
            description: content of its ``student.json``.
            network: the untrained network, if the run was trained on a custom module.

        Raises:
            CoterieError: the weights are damaged, or do not fit the network.
        """
        ...


def find_task(recipe: Recipe) -> TaskKind:
    """Imports and returns the recipe's task."""
    return find_part(recipe.task, "kind")
