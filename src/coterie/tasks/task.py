"""What a task is to the loop, the run folder and the comparison, and which one a recipe means."""

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
    """One kind of problem, set up for a recipe: gives batches, builds the method, measures it, and saves what is its own."""

    @property
    def recipe(self) -> Recipe:
        """The run's settings, without an ``auto`` whose value depends on data or networks."""
        ...

    @property
    def chosen(self) -> Mapping[str, str]:
        """Settings that were ``auto``, by their full names, and why they have their values."""
        ...

    @property
    def data(self) -> Loaders: ...

    @property
    def network_names(self) -> list[str]:
        """Of the students, to be shown; none where the network is the user's own."""
        ...

    @property
    def sample(self) -> str:
        """What one sample is called."""
        ...

    @property
    def sample_size(self) -> str:
        """How large samples are when they reach a network, such as "32x32 pixels, 3 channels"."""
        ...

    def build_method(self) -> Method: ...

    def sharded_networks(self, method: Method) -> list[nn.Module]:
        """Whole networks of the method's students and teachers, which ``training.shard`` shares out over processes; none: the task's are not.

        Each is called as such in training and evaluation. :meth:`save_examples` is called by all processes then; the first one writes.
        """
        ...

    def evaluate(self, method: Method, loader: EvaluationLoader) -> Evaluation: ...

    def evaluate_teachers(self, method: Method, loader: EvaluationLoader) -> list[dict[str, Any]]: ...

    def teacher_logits(self, teachers: Teachers, loader: EvaluationLoader) -> tuple[Tensor, Tensor]: ...

    def choose_deployed(self, method: Method, validation: Evaluation | None) -> Deployment: ...

    def learn_from(self, method: Method, validation: Evaluation) -> None:
        """Give the method what it learns from an evaluation of the validation split, see :meth:`coterie.methods.group_method.GroupMethod.after_validation`."""
        ...

    def chance_level(self, evaluation: Evaluation) -> ChanceLevel | None:
        """By what the loop tells a training that has diverged; None: by nothing."""
        ...

    def untrained_warning(self, on_train: Evaluation) -> str | None:
        """A sentence where the deployed student is no better on its own training samples than one that has not looked at them; else None."""
        ...

    def final_figures(self, evaluation: Evaluation) -> dict[str, Any]:
        """The figures of a run's last evaluation: those that it has, and such as are worth their room only once."""
        ...

    def examples(self, evaluation: Evaluation) -> Tensor:
        """Which samples are worth a look, int64 [m]: their numbers in the split."""
        ...

    def save_student(self, folder: RunFolder, network: nn.Module, method: Method, figures: dict[str, Any]) -> None:
        """Write the deployed student and all that it needs to be loaded again."""
        ...

    def save_examples(self, folder: RunFolder, split: str, indices: Tensor) -> None:
        """Write samples of a split, to be looked at."""
        ...


class TaskKind(Protocol):
    """A task before it is set up."""

    def __call__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        network: NetworkSource | None = None,
        datasets: Any = None,
        *,
        teachers: list[nn.Module] | None = None,
    ) -> Task:
        """For a training."""
        ...

    def for_evaluation(
        self, recipe: Recipe, accelerator: Accelerator, folder: RunFolder, datasets: Any = None, whole: bool = False
    ) -> Task:
        """For an evaluation of a finished run, whose samples are prepared as that run prepared them.

        With ``whole``, data that have no splits are measured in whole: they are not the run's own.
        """
        ...

    def require(self, recipe: Recipe, own_teachers: int = 0) -> None:
        """Refuse what the task does not serve, as far as that can be told before data and networks are there.

        Args:
            recipe: its settings, as they were read.
            own_teachers: teachers that are passed as modules.

        Raises:
            CoterieError: a setting, method or teacher that does not fit the task, or one another.
        """
        ...

    def first_stage(self, recipe: Recipe) -> Recipe | None:
        """The recipe of what is trained before, whose student is the teacher then; None where the method has no first stage.

        Raises:
            CoterieError: the method's first stage is not for these networks or teachers.
        """
        ...

    def rebuild_method(self, recipe: Recipe, description: dict[str, Any], network: NetworkSource | None) -> Method:
        """A finished run's method without its weights.

        Args:
            recipe: the run's.
            description: contents of its ``student.json``.
            network: the untrained network, where the run was trained on one's own.
        """
        ...


class Deployed(Protocol):
    """A module of functions that a finished run is asked with; it imports nothing that only a training or an evaluation needs."""

    def describe_network(self, recipe: Recipe, description: dict[str, Any], number: int) -> dict[str, Any]:
        """How one of a finished run's students is built, in the words of ``student.json``.

        Args:
            recipe: the run's.
            description: of its deployed student.
            number: of the student.
        """
        ...

    def is_one(self, samples: Any) -> bool:
        """Whether what is passed to be predicted is one sample, and not several."""
        ...

    def predict(
        self, folder: RunFolder, network: nn.Module, description: dict[str, Any], samples: Sequence[Any]
    ) -> Iterator[Answer]:
        """An answer for each sample, in their order. A task's own options are further arguments, by keyword only.

        Args:
            folder: of a finished run.
            network: its deployed student, on the CPU.
            description: contents of its ``student.json``.
            samples: as the task's ``inputs`` finds them, or as they are passed to :func:`coterie.predict`.
        """
        ...

    def load_student(self, folder: RunFolder, description: dict[str, Any], network: nn.Module | None) -> nn.Module:
        """A finished run's deployed student with its weights.

        Args:
            folder: the run's.
            description: contents of its ``student.json``.
            network: the untrained network, where the run was trained on one's own.

        Raises:
            CoterieError: damaged weights, or a network that they do not fit.
        """
        ...


def find_task(recipe: Recipe) -> TaskKind:
    """The recipe's task; its packages are imported when it is asked for."""
    return find_part(recipe.task, "kind")
