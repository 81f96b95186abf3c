"""Text classification: data, networks, and the files saved for a student and for inspection."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.files import usual_mode, write_json
from coterie.methods import find_method
from coterie.methods.method import Method
from coterie.networks.branching import NetworkSource
from coterie.recipe import Recipe
from coterie.recipe.sections import resolved
from coterie.run_folder import RunFolder
from coterie.student import save_student
from coterie.tasks.classification import Classification
from coterie.tasks.construction import require_no_images
from coterie.tasks.texts.networks import (
    build_method,
    build_teachers,
    fit_texts,
    read_teachers,
    require_tokens,
    shown,
    student_configs,
    student_names,
    students_tokenizer,
    untrained_teachers,
    with_slots,
)
from coterie.tasks.texts.reading import read_texts
from coterie.tasks.texts.sequence_classifier import example_inputs, read_tokenizer
from coterie.tasks.texts.settings import data_of
from coterie.tasks.texts.tokens import TokenBundle, load_tokens


class TextClassification(Classification):
    """Builds data and method of a recipe, and evaluates the method.

    Args:
        recipe: the run's settings.
        accelerator: device and processes.
        network, datasets, teachers: refused: texts come from files or the Hub, networks from folders or the Hub.
        tokenizer: tokenizer of the students, instead of that in their folder.
        measured: class names for an evaluation only, without training, see :func:`coterie.tasks.texts.reading.read_texts`.
    """

    sample = "text"

    @property
    def sample_size(self) -> str:
        """See :class:`coterie.tasks.task.Task`."""
        return f"up to {self.data.info.length} tokens"

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        network: NetworkSource | None = None,
        datasets: Any = None,
        *,
        teachers: list[nn.Module] | None = None,
        tokenizer: Any = None,
        measured: Sequence[str] | None = None,
    ) -> None:
        if network is not None or datasets is not None or teachers:
            raise CoterieError(
                "task=text_classification takes names of files and folders: save your network by save_pretrained, and your texts as CSV or JSON"
            )
        self.accelerator = accelerator
        find_method(recipe.method.name)  # report a misspelt name before reading the data
        self.network_names = [shown(name) for name in student_names(recipe)]
        self.tokenizer = students_tokenizer(recipe) if tokenizer is None else tokenizer
        self.raw = read_texts(data_of(recipe), measured)
        if tokenizer is None:  # otherwise an evaluation, whose recipe is that of a finished run
            recipe, self.chosen = fit_texts(recipe, len(self.raw.train))
        self.recipe = recipe
        tokenizers, self.teachers = with_slots(self.tokenizer, read_teachers(recipe, self.raw.class_names))
        self.teacher_notes = [teacher.note for teacher in self.teachers]
        self.configs: list[dict[str, Any]] = []
        self.data: TokenBundle = load_tokens(
            self.raw,
            tokenizers,
            max_length=data_of(recipe).max_length,
            batch_size=resolved(recipe.training.batch_size),
            seed=recipe.seed,
            device=accelerator.device,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            few_lengths=recipe.training.compile or (recipe.training.cuda_graph and accelerator.device.type == "cuda"),
        )
        self.example = example_inputs(len(tokenizers), self.data.info.length)

    @classmethod
    def require(cls, recipe: Recipe, own_teachers: int = 0) -> None:
        """See :class:`coterie.tasks.task.TaskKind`."""
        require_no_images(recipe)
        super().require(recipe, own_teachers)

    @classmethod
    def for_evaluation(
        cls, recipe: Recipe, accelerator: Accelerator, folder: RunFolder, datasets: Any = None, whole: bool = False
    ) -> TextClassification:
        """See :class:`coterie.tasks.task.TaskKind`. Teachers are not loaded."""
        alone = recipe.model_copy(update={"teacher": None, "teachers": []})
        measured = folder.read_description()["class_names"] if whole else None
        return cls(alone, accelerator, None, datasets, tokenizer=read_tokenizer(folder.tokenizer), measured=measured)

    @staticmethod
    def rebuild_method(recipe: Recipe, description: dict[str, Any], network: NetworkSource | None) -> Method:
        """See :class:`coterie.tasks.task.TaskKind`."""
        teachers, example = untrained_teachers(description["teachers"], description["length"])
        return build_method(recipe, description["configs"], example, load=False, teachers=teachers)

    def build_method(self) -> Method:
        """Builds students, label loss and method for these data, see :func:`coterie.tasks.texts.networks.build_method`."""
        self.configs = student_configs(self.recipe, self.data.info.class_names, self.tokenizer)
        teachers = build_teachers(self.teachers, self.example)
        label_loss = self.label_loss()
        method = build_method(
            self.recipe, self.configs, self.example, load=True, label_loss=label_loss, teachers=teachers
        )
        require_tokens(method.group, self.tokenizer, ", ".join(self.network_names))
        return self.prepare(method)

    def describe_student(self, method: Method, figures: dict[str, Any]) -> dict[str, Any]:
        """Returns the content of ``student.json``."""
        info, number = self.data.info, method.deployed_student
        return {
            "task": self.recipe.task,
            "network": self.network_names[number if len(self.network_names) > 1 else 0],
            "config": self.configs[number],
            "configs": self.configs,
            "num_classes": len(info.class_names),
            "class_names": list(info.class_names),
            "length": info.length,
            "max_length": data_of(self.recipe).max_length,
            "method": self.recipe.method.name,
            "data": info.name,
            "student": number,
            "teachers": self.teacher_notes,
            "figures": {key: value for key, value in figures["deployed"].items() if key != "student"},
        }

    def save_student(self, folder: RunFolder, network: nn.Module, method: Method, figures: dict[str, Any]) -> None:
        """Write weights and description of the deployed student, and its tokenizer."""
        temporary = folder.path / ".tokenizer.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        self.tokenizer.save_pretrained(temporary)
        mode = usual_mode(folder.path)
        for path in temporary.iterdir():
            path.chmod(mode)
        shutil.rmtree(folder.tokenizer, ignore_errors=True)
        temporary.rename(folder.tokenizer)
        save_student(folder, network, self.describe_student(method, figures))

    def save_examples(self, folder: RunFolder, split: str, indices: Tensor) -> None:
        """Write texts of a split as ``gallery/texts.json``."""
        texts = self.raw.splits()[split]
        names = self.raw.class_names
        examples = [
            {"index": index, "texts": list(texts.texts[index]), "label": names[int(texts.labels[index])]}
            for index in indices.tolist()
        ]
        folder.gallery.mkdir(exist_ok=True)
        write_json(folder.gallery / "texts.json", {"split": split, "examples": examples})
