"""The task of restoration: data, network, figures, the saved network and examples."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from coterie.data.batch import EvaluationLoader
from coterie.errors import CoterieError
from coterie.methods.method import Method
from coterie.methods.restoration.restorer import Restorer
from coterie.networks.branching import NetworkSource
from coterie.networks.dists import DISTS
from coterie.networks.lpips import LPIPS
from coterie.recipe import Recipe
from coterie.recipe.sections import resolved
from coterie.run_folder import RunFolder
from coterie.student import save_student
from coterie.tasks.defaults import TaskDefaults
from coterie.tasks.evaluation import Deployment, Evaluation
from coterie.tasks.restoration import panels
from coterie.tasks.restoration.data.loaders import MeasuringLoader, make_loaders
from coterie.tasks.restoration.data.sets import load_sets
from coterie.tasks.restoration.evaluation import RestorationEvaluation, enlarger, measure
from coterie.tasks.restoration.fitting import fit_restoration
from coterie.tasks.restoration.networks import (
    display_name,
    find_generator,
    make_method,
    rebuild_method,
    require_restorer,
)
from coterie.tasks.restoration.settings import data_of, network_of

EXAMPLES = 4  # images to show in the report
SHOWN = 256  # largest side of the centre crop that is shown of a whole image, in pixels


class Restoration(TaskDefaults):
    """Builds data and method of a recipe, and evaluates.

    Args:
        recipe: the run's settings.
        accelerator: provides the device and the rank of this process.
        network, datasets, teachers: refused: images come from files, networks from folders or the Hub, and no method has a teacher of its own.
        fitted: whether the recipe is that of a finished run, which is evaluated again; it is then not fitted again.
        whole: evaluate data without splits as a whole.

    Attributes:
        sample: what one sample is called.
        recipe, data, chosen: see :class:`coterie.tasks.task.Task`.
    """

    sample: ClassVar[str] = "image"

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        network: NetworkSource | None = None,
        datasets: Any = None,
        *,
        teachers: list[nn.Module] | None = None,
        fitted: bool = False,
        whole: bool = False,
    ) -> None:
        if network is not None or datasets is not None or teachers:
            raise CoterieError(
                f"task={recipe.task} takes names of files and folders: save your network by save_pretrained, and your images as files"
            )
        self.accelerator = accelerator
        self.chosen: Mapping[str, str] = MappingProxyType({})
        self.sets = load_sets(data_of(recipe), whole)
        if not fitted:
            recipe, self.chosen = fit_restoration(recipe, len(self.sets.squares["train"]))
        self.recipe = recipe
        self.network_names = [display_name(recipe)]
        self.data = make_loaders(
            self.sets,
            data_of(recipe),
            batch_size=resolved(recipe.training.batch_size),
            seed=recipe.seed,
            device=accelerator.device,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
        )
        self.generator: dict[str, Any] = {}
        self._distances: list[DISTS | LPIPS] | None = None
        self._measured: RestorationEvaluation | None = None  # the last one
        self._evaluated: Restorer | None = None  # the method that was evaluated last

    @classmethod
    def require(cls, recipe: Recipe, own_teachers: int = 0) -> None:
        """See :class:`coterie.tasks.task.TaskKind`."""
        _require_no_classes(recipe)
        if own_teachers or recipe.all_teachers():
            raise CoterieError(
                f"task={recipe.task}: no method takes teacher.*; vsd's teacher is the network that it starts from"
            )
        require_restorer(recipe)
        super().require(recipe, own_teachers)

    @classmethod
    def for_evaluation(
        cls, recipe: Recipe, accelerator: Accelerator, folder: RunFolder, datasets: Any = None, whole: bool = False
    ) -> Restoration:
        """See :class:`coterie.tasks.task.TaskKind`."""
        return cls(recipe, accelerator, None, datasets, fitted=True, whole=whole)

    @staticmethod
    def rebuild_method(recipe: Recipe, description: dict[str, Any], network: NetworkSource | None) -> Method:
        """See :class:`coterie.tasks.task.TaskKind`."""
        return rebuild_method(recipe, description)

    @property
    def sample_size(self) -> str:
        """See :class:`coterie.tasks.task.Task`."""
        data = data_of(self.recipe)
        return f"squares of {data.crop} pixels from ones of {data.crop // data.scale} (x{data.scale})"

    def build_method(self) -> Restorer:
        """Build the network and its method."""
        training = self.recipe.training
        wanting = {
            "training.patience": training.patience is not None,
            "training.select=best": training.select == "best",
        }
        for what, needed in wanting.items():
            if needed and self.data.validation is None:
                raise CoterieError(f"{what} needs a validation split, and there is none; set data.validation")
        self.distances()  # weights that are missing are an error before training, not at the first evaluation
        return make_method(self.recipe, find_generator(self.recipe))

    def distances(self) -> list[DISTS | LPIPS]:
        """The frozen networks for perceptual distances, on the device.

        Raises:
            CoterieError: weights are not available.
        """
        if self._distances is None:
            data = data_of(self.recipe)
            found: list[DISTS | LPIPS] = [DISTS(data.dists)]
            found += [LPIPS()] if data.lpips else []
            self._distances = [each.to(self.accelerator.device) for each in found]
        return self._distances

    def evaluate(self, method: Method, loader: EvaluationLoader) -> RestorationEvaluation:
        """See :func:`coterie.tasks.restoration.evaluation.measure`."""
        assert isinstance(method, Restorer)
        network = network_of(self.recipe)
        found = measure(method, loader, self.accelerator, self.distances(), network.tile, network.overlap)
        if loader is not self.data.train_evaluation or self._measured is None:
            self._measured, self._evaluated = found, method
        return found

    def choose_deployed(self, method: Method, validation: Evaluation | None) -> Deployment:
        """Choose the only network."""
        return Deployment(0, "")

    def save_student(self, folder: RunFolder, network: nn.Module, method: Method, figures: dict[str, Any]) -> None:
        """Save weights and description of the network."""
        assert isinstance(method, Restorer)
        settings = network_of(self.recipe)
        about = {
            "task": self.recipe.task,
            "network": self.network_names[0],
            "generator": method.generator.describe(),
            "crop": data_of(self.recipe).crop,
            "tile": settings.tile,
            "overlap": settings.overlap,
            "method": self.recipe.method.name,
            "method_options": method.without_sources(),
            "data": self.data.info.name,
            "class_names": [],
            "student": 0,
            "figures": {key: value for key, value in figures["deployed"].items() if key != "student"},
        }
        save_student(folder, network, about)

    def examples(self, evaluation: Evaluation) -> Tensor:
        """Choose evenly spaced images."""
        count = self._shown(self._split()).num_samples
        shown = min(EXAMPLES, count)
        return torch.arange(shown) * count // shown

    def _split(self) -> str:
        return "test" if self.data.test is not None else "validation" if self.data.validation is not None else "train"

    def _shown(self, split: str) -> MeasuringLoader:
        found = {"test": self.data.test, "validation": self.data.validation, "train": self.data.train_evaluation}[split]
        assert isinstance(found, MeasuringLoader)
        return found

    @torch.inference_mode()
    def save_examples(self, folder: RunFolder, split: str, indices: Tensor) -> None:
        """Save small, interpolated, restored and true images, and spectra, see :mod:`coterie.tasks.restoration.panels`."""
        assert self._evaluated is not None
        assert self._measured is not None
        method, scale = self._evaluated, self._evaluated.generator.scale
        settings = network_of(self.recipe)
        restore = enlarger(method, settings.tile, settings.overlap)
        pictures = []
        for number in indices.tolist():
            low, true = (
                _middle(each, side)
                for each, side in zip(self._shown(split).pair(number), (SHOWN // scale, SHOWN), strict=True)
            )
            small = low[None].to(self.accelerator.device)
            pictures.append(
                {
                    "small": low,
                    "bicubic": method.generator.enlarged(small)[0],
                    "restored": restore(small)[0].float(),
                    "true": true,
                }
            )
        panels.save(folder, split, pictures, self._measured.spectra)


def _middle(image: Tensor, side: int) -> Tensor:
    """Return a centre crop of at most ``side`` pixels. Small and large images give the same part if both sides have the ratio of the images."""
    height, width = (min(side, each) for each in image.shape[-2:])
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]


def _require_no_classes(recipe: Recipe) -> None:
    """Refuse settings that have no meaning for restoration.

    Raises:
        CoterieError: one of them is set.
    """
    training, name = recipe.training, recipe.task
    if recipe.data.views == "per_student":
        raise CoterieError(f"data.views=per_student: task={name} trains one network")
    if training.class_weights != "none":
        raise CoterieError(f"training.class_weights weighs classes, and task={name} has none")
    if training.label_loss != "cross_entropy" or training.label_smoothing:
        raise CoterieError(f"training.label_loss and label_smoothing are for classes, and task={name} has none")
    if training.checkpoint_branches:
        raise CoterieError(f"training.checkpoint_branches is of groups; task={name} has network.gradient_checkpointing")
    if recipe.network.hold_statistics is True:
        raise CoterieError(f"network.hold_statistics is of BatchNorm, and the networks of task={name} have none")
