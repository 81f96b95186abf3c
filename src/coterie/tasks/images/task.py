"""Image classification: data, networks, and the files saved for a student and for inspection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from coterie.data.arrays import Pixels
from coterie.errors import CoterieError
from coterie.files import digest
from coterie.methods import find_method
from coterie.methods.method import Method
from coterie.networks.branching import NetworkSource
from coterie.networks.teacher import Statistics, Teachers
from coterie.recipe import Recipe, load_recipe
from coterie.recipe.sections import resolved
from coterie.run_folder import RunFolder
from coterie.student import save_student
from coterie.tasks.classification import Classification
from coterie.tasks.images.data.bundle import DataBundle, prepare_data
from coterie.tasks.images.data.reading import read_data
from coterie.tasks.images.fitting import fit_images
from coterie.tasks.images.networks import build_method, network_names, network_options, pretrained_config
from coterie.tasks.images.settings import data_of, network_of
from coterie.tasks.images.teachers import Expectation, build_teachers, first_stage, own_teachers, untrained_teachers


class ImageClassification(Classification):
    """Builds data and method of a recipe, and evaluates the method.

    Args:
        recipe: the run's settings.
        accelerator: device and processes.
        network: a module, or a callable that builds one, instead of ``network.name``.
        datasets: (train, validation, test) instead of ``data.name``, with None for a missing split.
        input_config: preprocessing with timm's keys (mean, std, input_size, ...), instead of a pretrained network's.
        teachers: modules instead of the recipe's ``teacher``; they get the same inputs as the students.
        measured: class names for an evaluation only, without training, see :func:`coterie.tasks.images.data.reading.read_data`.
    """

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        network: NetworkSource | None = None,
        datasets: Any = None,
        input_config: dict[str, Any] | None = None,
        teachers: list[nn.Module] | None = None,
        measured: Sequence[str] | None = None,
    ) -> None:
        self.own_teachers = teachers
        self.teacher_notes: list[dict[str, Any]] = []
        self.accelerator = accelerator
        self.network = network
        find_method(recipe.method.name)  # report a misspelt name before reading the data
        asked = network_of(recipe).weights
        weights = Path(asked).expanduser() if asked is not None else None
        if weights is not None and not weights.is_file():  # before the data are read
            raise CoterieError(f"network.weights={asked!r} is not a file")
        self.initial_weights = None if weights is None else {"file": str(weights), "sha256": digest(weights)}
        raw = read_data(data_of(recipe), datasets, measured)
        if input_config is None:  # otherwise an evaluation, whose recipe is that of a finished run
            recipe, self.chosen = fit_images(recipe, raw, accelerator, network)
        self.recipe = recipe
        self.network_names = [] if network is not None else network_names(recipe)
        self.data: DataBundle = prepare_data(
            raw,
            data_of(recipe),
            batch_size=resolved(recipe.training.batch_size),
            seed=recipe.seed,
            device=accelerator.device,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            network_config=input_config or (pretrained_config(recipe) if network is None else None),
            channels_last=recipe.training.channels_last is True,
        )

    @property
    def sample_size(self) -> str:
        """See :class:`coterie.tasks.task.Task`."""
        channels, height, width = self.data.info.input_size
        return f"{width}x{height} pixels, {channels} channel{'s' if channels > 1 else ''}"

    @classmethod
    def for_evaluation(
        cls, recipe: Recipe, accelerator: Accelerator, folder: RunFolder, datasets: Any = None, whole: bool = False
    ) -> ImageClassification:
        """See :class:`coterie.tasks.task.TaskKind`."""
        description = folder.read_description()
        config = {key: description[key] for key in ("input_size", "mean", "std", "interpolation")}
        # Use the run's preprocessing, whatever the data.
        return cls(
            load_recipe(recipe, ["data.normalize=network", "network.weights=null"]),
            accelerator,
            datasets=datasets,
            input_config={**config, "crop_pct": description["crop"]},
            measured=description["class_names"] if whole else None,
        )

    first_stage = staticmethod(first_stage)

    @staticmethod
    def rebuild_method(recipe: Recipe, description: dict[str, Any], network: NetworkSource | None) -> Method:
        """See :class:`coterie.tasks.task.TaskKind`."""
        classes, size = description["num_classes"], tuple(description["input_size"])
        teachers = untrained_teachers(description.get("teachers", []), Expectation(classes, size))
        if network_of(recipe).weights is not None:  # a checkpoint is loaded next, and the file may be gone
            recipe = load_recipe(recipe, ["network.weights=null"])
        return build_method(recipe, classes, size, network, teachers=teachers)

    def build_method(self) -> Method:
        """Builds students, label loss and method for these data, see :func:`coterie.tasks.images.networks.build_method`."""
        info = self.data.info
        classes, size = len(info.class_names), info.input_size
        teachers = self._teachers()
        return self.prepare(build_method(self.recipe, classes, size, self.network, self.label_loss(), teachers))

    def _teachers(self) -> Teachers | None:
        info = self.data.info
        statistics = Statistics(tuple(info.mean), tuple(info.std))
        expected = Expectation(len(info.class_names), info.input_size, statistics, list(info.class_names))
        if self.own_teachers:
            teachers, self.teacher_notes = own_teachers(self.own_teachers, expected)
            return teachers
        built, self.teacher_notes = build_teachers(self.recipe, expected)
        return built

    def describe_student(self, method: Method, figures: dict[str, Any]) -> dict[str, Any]:
        """Returns the content of ``student.json``."""
        info, names = self.data.info, self.network_names
        name = names[method.deployed_student if len(names) > 1 else 0] if names else None
        return {
            "network": name,
            "options": network_options(self.recipe, name, info.input_size) if name else {},
            "num_classes": len(info.class_names),
            "class_names": list(info.class_names),
            "input_size": list(info.input_size),
            "mean": list(info.mean),
            "std": list(info.std),
            "interpolation": info.interpolation,
            "crop": info.crop,
            "method": self.recipe.method.name,
            "data": info.name,
            "student": method.deployed_student,
            "teachers": self.teacher_notes,
            "initial_weights": self.initial_weights,
            "figures": {key: value for key, value in figures["deployed"].items() if key != "student"},
        }

    def save_student(self, folder: RunFolder, network: nn.Module, method: Method, figures: dict[str, Any]) -> None:
        """Write weights and description of the deployed student."""
        save_student(folder, network, self.describe_student(method, figures))

    def save_examples(self, folder: RunFolder, split: str, indices: Tensor) -> None:
        """Write images of a split as ``gallery/<index>.png``."""
        loader = {"test": self.data.test, "validation": self.data.validation}.get(split) or self.data.train_evaluation
        folder.gallery.mkdir(exist_ok=True)
        for index, pixels in zip(indices.tolist(), loader.raw_images(indices.tolist()), strict=True):
            Image.fromarray(_shown(np.asarray(pixels))).save(folder.gallery / f"{index}.png")


def _shown(pixels: Pixels) -> Pixels:
    """Converts an image [H, W, C] for display: with three or more channels, the first three as RGB, otherwise the first as grey."""
    return pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]
