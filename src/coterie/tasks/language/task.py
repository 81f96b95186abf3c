"""The task of language modeling: data, networks, figures, saved students and examples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from coterie.data.batch import EvaluationLoader, Loaders
from coterie.errors import CoterieError
from coterie.losses import LabelLoss
from coterie.methods import find_method
from coterie.methods.group_method import grouped
from coterie.methods.method import Method
from coterie.networks.branching import NetworkSource
from coterie.recipe import Recipe
from coterie.recipe.sections import resolved
from coterie.run_folder import RunFolder
from coterie.student import save_student
from coterie.tasks.construction import require_no_images
from coterie.tasks.defaults import TaskDefaults
from coterie.tasks.evaluation import ChanceLevel, Deployment, Evaluation
from coterie.tasks.language import panels
from coterie.tasks.language.causal_lm import CausalLM
from coterie.tasks.language.continuations import continue_rows
from coterie.tasks.language.data.bundle import make_loaders
from coterie.tasks.language.data.sets import load_sets
from coterie.tasks.language.evaluation import LanguageEvaluation, measure
from coterie.tasks.language.fitting import fit_language
from coterie.tasks.language.logits import WHOLE_LOGITS
from coterie.tasks.language.networks import shared_vocabulary
from coterie.tasks.language.settings import data_of
from coterie.tasks.language.sources import find_tokenizer, read_teachers, shown_names
from coterie.tasks.language.students import (
    all_networks,
    describe_networks,
    load_students,
    make_group,
    make_method,
    make_teachers,
    num_students,
    rebuild_students,
    rebuild_teachers,
    require_positions,
    whole_note,
)
from coterie.tasks.language.tokenizer import load_tokenizer, num_tokens, save_tokenizer

EXAMPLES = 6  # rows to continue for the report


class LanguageModeling(TaskDefaults):
    """Builds data and method of a recipe, and evaluates.

    Args:
        recipe: the run's settings.
        accelerator: provides the device and the rank of this process.
        network, datasets, teachers: refused: texts come from files or the Hub, networks from folders or the Hub.
        tokenizer: the tokenizer of a finished run that is evaluated again; its recipe is not fitted again.
        whole: evaluate data without splits as a whole.

    Attributes:
        sample: what one sample is called.
        recipe, data, chosen: see :class:`coterie.tasks.task.Task`.
    """

    sample: ClassVar[str] = "row"

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        network: NetworkSource | None = None,
        datasets: Any = None,
        *,
        teachers: list[nn.Module] | None = None,
        tokenizer: Any = None,
        whole: bool = False,
    ) -> None:
        if network is not None or datasets is not None or teachers:
            raise CoterieError(
                f"task={recipe.task} takes names of files and folders: save your network by save_pretrained, and your texts as files"
            )
        _require_plain_labels(recipe)
        find_method(recipe.method.name)  # a misspelt name should not wait for the data
        self.accelerator = accelerator
        self.network_names = shown_names(recipe)
        self.chosen: Mapping[str, str] = MappingProxyType({})
        self.teachers = read_teachers(recipe)
        self.asks = tokenizer is None
        notes: tuple[str, ...] = ()
        if tokenizer is None:
            tokenizer, note = find_tokenizer(recipe, self.teachers)
            notes = (note,) if note else ()
        self.tokenizer = tokenizer
        self.sets = load_sets(data_of(recipe), tokenizer, whole, inherited=not self.asks)
        self.length = data_of(recipe).block_length
        if self.asks:  # an evaluation's recipe is a finished run's
            recipe, self.chosen = fit_language(recipe, len(self.sets.rows["train"]), num_tokens(tokenizer))
        self.recipe = recipe
        self.data: Loaders = make_loaders(
            self.sets,
            vocabulary=num_tokens(tokenizer),
            batch_size=resolved(recipe.training.batch_size),
            seed=recipe.seed,
            device=accelerator.device,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            accumulate=recipe.training.accumulate,
            notes=notes,
        )
        self.vocabulary: int | None = None  # number of logits to compare; None: all
        self.configs: list[dict[str, Any]] = []
        self._evaluations: dict[int, LanguageEvaluation] = {}  # the last one of each loader
        self._evaluated: Method | None = None  # the method that was evaluated last
        self._final: LanguageEvaluation | None = None  # the one whose examples are shown

    @classmethod
    def require(cls, recipe: Recipe, own_teachers: int = 0) -> None:
        """See :class:`coterie.tasks.task.TaskKind`."""
        _require_plain_labels(recipe)
        require_no_images(recipe)
        super().require(recipe, own_teachers)

    @classmethod
    def for_evaluation(
        cls, recipe: Recipe, accelerator: Accelerator, folder: RunFolder, datasets: Any = None, whole: bool = False
    ) -> LanguageModeling:
        """See :class:`coterie.tasks.task.TaskKind`. Teachers are not run again."""
        alone = recipe.model_copy(update={"teacher": None, "teachers": []})
        return cls(alone, accelerator, None, datasets, tokenizer=load_tokenizer(folder.tokenizer), whole=whole)

    @staticmethod
    def rebuild_method(recipe: Recipe, description: dict[str, Any], network: NetworkSource | None) -> Method:
        """See :class:`coterie.tasks.task.TaskKind`."""
        vocabulary = description["vocabulary"]
        group = rebuild_students(recipe, description["configs"], vocabulary)
        return make_method(recipe, group, rebuild_teachers(description["teachers"], vocabulary))

    @property
    def sample_size(self) -> str:
        """See :class:`coterie.tasks.task.Task`. Logits dominate memory, unless they are computed in chunks."""
        tokens = num_tokens(self.tokenizer)
        size = 4 * resolved(self.recipe.training.batch_size) * self.length * tokens / 2**20
        taken = "would take" if self._many_logits and find_method(self.recipe.method.name).compares_logits() else "take"
        parts = ", and are computed in parts" if taken != "take" else ""
        return f"up to {self.length:,} of {tokens:,} tokens; a model's logits of a batch {taken} {size:,.1f} MiB{parts}"

    @property
    def _many_logits(self) -> bool:
        """Whether a step has more logits than are computed at once."""
        rows = -(-resolved(self.recipe.training.batch_size) // self.accelerator.num_processes)
        models = num_students(self.recipe) + len(self.teachers)
        return models * rows * self.length * num_tokens(self.tokenizer) > WHOLE_LOGITS

    def build_method(self) -> Method:
        """Build students, teachers, label loss and method for these data."""
        students = load_students(self.recipe, self.tokenizer)
        shared = shared_vocabulary(self.tokenizer, all_networks(students, self.teachers))
        if shared.note:
            info = replace(self.data.info, notes=(*self.data.info.notes, shared.note))
            self.data = replace(self.data, info=info)
        self.vocabulary = shared.size
        require_positions([*students, *(each.network for each in self.teachers)], self.length)
        self.configs = describe_networks(students)
        teachers = make_teachers(
            [each.network for each in self.teachers], [each.note["network"] for each in self.teachers], shared.size
        )
        training = self.recipe.training
        label_loss = LabelLoss(training.label_loss, training.label_smoothing)
        group = make_group(self.recipe, students, shared.size)
        method = make_method(self.recipe, group, teachers, label_loss)
        if self._many_logits and type(method).compares_logits() and (note := whole_note(group, teachers)):
            self.data = replace(self.data, info=replace(self.data.info, notes=(*self.data.info.notes, note)))
        wanting = {
            "training.patience": training.patience is not None,
            "training.select=best": training.select == "best",
            "method": method.needs_validation,
        }
        for what, needed in wanting.items():
            if needed and self.data.validation is None:
                raise CoterieError(f"{what} needs a validation split, and there is none; set data.validation")
        return method

    def sharded_networks(self, method: Method) -> list[nn.Module]:
        """Return students and teachers as plain transformers networks."""
        teachers = method.teachers.each() if method.teachers is not None else []
        parts = [*grouped(method).group.branches, *(each.body for each in teachers)]
        return [each.network for each in parts if isinstance(each, CausalLM)]

    def evaluate(self, method: Method, loader: EvaluationLoader) -> LanguageEvaluation:
        """See :func:`coterie.tasks.language.evaluation.measure`. Teachers are evaluated on training rows only if there is no other split."""
        teachers = method.teachers if self.asks else None
        if not self.asks:  # rows may be longer than in training
            require_positions(self.sharded_networks(method), self.length)
        if loader is self.data.train_evaluation and (self.data.test or self.data.validation):
            teachers = None
        found = measure(method, teachers, loader, self.accelerator, self.length)
        self._evaluations[id(loader)], self._evaluated = found, method
        return found

    def evaluate_teachers(self, method: Method, loader: EvaluationLoader) -> list[dict[str, Any]]:
        """Return what the run records about each teacher, with its figures on a whole split; empty without teachers."""
        if not self.teachers:
            return []
        found = self._evaluations.get(id(loader)) or self.evaluate(method, loader)
        return [{**each.note, **figures} for each, (figures, _) in zip(self.teachers, found.teachers, strict=True)]

    def chance_level(self, evaluation: Evaluation) -> ChanceLevel:
        """Return the NLL and that of a uniform guess among V tokens, ln V."""
        return ChanceLevel("NLL", evaluation.figures["deployed"]["nll"], math.log(num_tokens(self.tokenizer)))

    def untrained_warning(self, on_train: Evaluation) -> str | None:
        """Return a warning if the deployed student's NLL on its training rows is no better than a uniform guess."""
        found = self.chance_level(on_train)
        if found.value < found.chance:
            return None
        return (
            f"the deployed student has learnt nothing yet: its NLL on its own training rows is {found.value:.2f}, a uniform guess has "
            f"{found.chance:.2f}. Train for longer, or try another optimizer.learning_rate (a lower one, where the loss has not fallen)"
        )

    def choose_deployed(self, method: Method, validation: Evaluation | None) -> Deployment:
        """Choose the leader, or the method's own choice; otherwise the student with the lowest validation NLL."""
        if method.leader is not None:
            return Deployment(method.leader, "it is the method's leader")
        students = validation.figures["students"] if validation else []
        own = method.choose([each["top1"] for each in students]) if students else None
        if own is not None:
            return Deployment(own, "it is the method's own choice")
        if method.num_students == 1:
            return Deployment(0, "")
        if not students:
            return Deployment(0, "there is no validation split to choose on")
        losses = [each["nll"] for each in students]
        best = losses.index(min(losses))
        return Deployment(best, f"its validation NLL is the lowest, {losses[best]:.4f}")

    def describe_student(self, method: Method, figures: dict[str, Any]) -> dict[str, Any]:
        """Return the contents of ``student.json``."""
        number = method.deployed_student
        return {
            "task": self.recipe.task,
            "network": self.network_names[number if len(self.network_names) > 1 else 0],
            "config": self.configs[number],
            "configs": self.configs,
            "class_names": [],
            "vocabulary": self.vocabulary,
            "length": self.length,
            "method": self.recipe.method.name,
            "data": self.data.info.name,
            "student": number,
            "teachers": [each.note for each in self.teachers],
            "figures": {key: value for key, value in figures["deployed"].items() if key != "student"},
        }

    def save_student(self, folder: RunFolder, network: nn.Module, method: Method, figures: dict[str, Any]) -> None:
        """Save weights and description of the deployed student, and its tokenizer."""
        save_tokenizer(self.tokenizer, folder.tokenizer)
        save_student(folder, network, self.describe_student(method, figures))

    def examples(self, evaluation: Evaluation) -> Tensor:
        """Choose evenly spaced rows whose beginnings are continued."""
        assert isinstance(evaluation, LanguageEvaluation)
        self._final = evaluation
        loader = next(each for each in self._loaders() if self._evaluations.get(id(each)) is evaluation)
        count = min(EXAMPLES, loader.num_samples)
        return torch.arange(count) * loader.num_samples // count

    def _loaders(self) -> list[EvaluationLoader]:
        found = (self.data.test, self.data.validation, self.data.train_evaluation)
        return [each for each in found if each is not None]

    def save_examples(self, folder: RunFolder, split: str, indices: Tensor) -> None:
        """Save curves of the final evaluation and continuations by students and teachers, see :mod:`coterie.tasks.language.panels`."""
        assert self._final is not None
        assert self._evaluated is not None
        names = [each.note["network"] for each in self.teachers]
        continuations = continue_rows(self._evaluated, names, self.sets.rows[split], indices, self.tokenizer)
        if not self.accelerator.is_main_process:
            return
        panels.save(folder, split, self.length, self._final, names, continuations)


def _require_plain_labels(recipe: Recipe) -> None:
    """Refuse settings that have no meaning for tokens.

    Raises:
        CoterieError: one of them is set.
    """
    training, name = recipe.training, recipe.task
    if recipe.data.views == "per_student":
        raise CoterieError(
            f"data.views=per_student: rows of task={name} are not augmented, all views of one are the same"
        )
    if training.class_weights != "none":
        raise CoterieError(f"training.class_weights weighs classes, and task={name} predicts tokens")
    if training.label_loss != "cross_entropy":
        raise CoterieError(f"training.label_loss={training.label_loss} is for classes, and task={name} predicts tokens")
