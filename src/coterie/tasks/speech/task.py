"""The task of speech encoders: data, networks, figures, saved students and examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from coterie.data.batch import EvaluationLoader, Loaders, SetInfo
from coterie.data.order import Order
from coterie.errors import CoterieError
from coterie.methods.method import Method
from coterie.methods.speech.ekd import EnsembleKD
from coterie.methods.speech.encoder import SpeechEncoder, conv_frames
from coterie.networks.branching import NetworkSource
from coterie.networks.hugging_face import describe_config
from coterie.recipe import Recipe, load_recipe
from coterie.recipe.sections import AUTO, resolved
from coterie.run_folder import RunFolder
from coterie.student import save_student
from coterie.tasks.defaults import TaskDefaults
from coterie.tasks.evaluation import Deployment, Evaluation
from coterie.tasks.speech import panels
from coterie.tasks.speech.data.loaders import SpeechEvaluationLoader, SpeechTrainLoader, most_samples
from coterie.tasks.speech.data.sets import SpeechSets, load_sets
from coterie.tasks.speech.data.states import CachedStates
from coterie.tasks.speech.evaluation import (  # fmt: skip
    SpeechEvaluation,
    as_ekd,
    costs,
    frame_differences,
    means_of,
    measure,
    probe,
    with_probes,
)
from coterie.tasks.speech.fitting import fit_speech
from coterie.tasks.speech.networks import build_encoder, display_name
from coterie.tasks.speech.probe import CLIPS
from coterie.tasks.speech.settings import data_of, network_of
from coterie.tasks.speech.students import (
    build_student,
    find_start,
    make_method,
    make_teachers,
    read_teachers,
    rebuild_method,
    require_encoder_method,
)

STUDENT, RANDOM = "student", "random student"
EXAMPLES = 3  # clips to show in the report
TRAINING_CLIPS = 512  # training clips to evaluate at the end


class Speech(TaskDefaults):
    """Builds data and method of a recipe, and evaluates.

    Args:
        recipe: the run's settings.
        accelerator: provides the device and the rank of this process.
        network, datasets, teachers: refused: audio comes from files, networks from folders or the Hub.
        description: contents of ``student.json`` of a finished run that is evaluated again; its recipe is not fitted again.
        whole: evaluate data without splits as a whole.

    Attributes:
        sample: what one sample is called.
        recipe, data, chosen: see :class:`coterie.tasks.task.Task`.
    """

    sample: ClassVar[str] = "clip"

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        network: NetworkSource | None = None,
        datasets: Any = None,
        *,
        teachers: list[nn.Module] | None = None,
        description: dict[str, Any] | None = None,
        whole: bool = False,
    ) -> None:
        if network is not None or datasets is not None or teachers:
            raise CoterieError(
                f"task={recipe.task} takes names of files and folders: save your networks by save_pretrained, and your clips as files"
            )
        self.accelerator = accelerator
        self.chosen: Mapping[str, str] = MappingProxyType({})
        self.sets: SpeechSets = load_sets(data_of(recipe), whole)
        self.teachers = read_teachers(recipe)
        self.trains = description is None
        notes: tuple[str, ...] = ()
        if description is None:
            if data_of(recipe).probe != "last_layer" and not self.sets.label_names:
                raise CoterieError(
                    f"data.probe={data_of(recipe).probe} has no effect: the clips of {data_of(recipe).name!r} have no labels to probe"
                )
            self.start = find_start(recipe, self.teachers)
            recipe, self.chosen = fit_speech(recipe, self.sets.clips["train"], self.start)
            network_, left = build_student(recipe, self.start, self.teachers)
            self.network, self.normalize = network_, self.start.normalize
            if left:
                notes = (
                    f"{len(left)} of the student's weights are not among its teachers', such as {left[0]}: they begin anew",
                )
        else:
            _require_same_teachers(self.teachers, description)
            self.network, self.normalize = build_encoder(description["config"]), description["normalize"]
        self.recipe = recipe
        name = network_of(recipe).name
        self.network_names = ["student" if name in (None, AUTO) else display_name(str(name))]
        self.encoders = make_teachers([each.network for each in self.teachers], [each.note for each in self.teachers])
        self.encoders.to(accelerator.device)
        self.data = self._loaders(notes)
        self._measured: SpeechEvaluation | None = None  # the last one
        self._measured_on: EvaluationLoader | None = None
        self._evaluated: Method | None = None

    def _loaders(self, notes: tuple[str, ...]) -> Loaders:
        sets, settings, recipe = self.sets, data_of(self.recipe), self.recipe
        device, place = self.accelerator.device, (self.accelerator.process_index, self.accelerator.num_processes)
        size = resolved(recipe.training.batch_size)
        train = sets.clips["train"]
        lengths = torch.from_numpy(train.lengths).clamp(max=most_samples(settings))
        config: Any = self.network.config
        frames = partial(conv_frames, kernels=config.conv_kernel, strides=config.conv_stride)
        order = Order(len(train), size, recipe.seed, *place, lengths)

        def evaluation(split: str, limit: int | None = None) -> SpeechEvaluationLoader | None:
            if split not in sets.clips:
                return None
            return SpeechEvaluationLoader(sets.clips[split], settings, max(1, size // place[1]), device, *place, limit)

        on_train = evaluation("train", TRAINING_CLIPS)
        assert on_train is not None
        info = SetInfo(
            sets.name,
            (),
            skipped=sets.skipped,
            passed_over=sets.passed_over,
            duplicates=sets.duplicates,
            notes=(*sets.notes, *notes),
        )
        loader = SpeechTrainLoader(train, settings, order, device, frames, recipe.training.accumulate, sets.noise)
        return Loaders(info, loader, evaluation("validation"), evaluation("test"), on_train, dict(sets.fingerprint))

    @classmethod
    def require(cls, recipe: Recipe, own_teachers: int = 0) -> None:
        """See :class:`coterie.tasks.task.TaskKind`."""
        _require_no_classes(recipe)
        require_encoder_method(recipe)
        super().require(recipe, own_teachers)

    @classmethod
    def for_evaluation(
        cls, recipe: Recipe, accelerator: Accelerator, folder: RunFolder, datasets: Any = None, whole: bool = False
    ) -> Speech:
        """See :class:`coterie.tasks.task.TaskKind`. Teachers are loaded again, since the figures compare the student with them. Probes train on as many clips as before."""
        if not whole:
            limit = load_recipe(folder.recipe, trust_code=True).data.train_limit  # of which no method is imported
            recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"train_limit": limit})})
        return cls(recipe, accelerator, None, datasets, description=folder.read_description(), whole=whole)

    @staticmethod
    def rebuild_method(recipe: Recipe, description: dict[str, Any], network: NetworkSource | None) -> Method:
        """See :class:`coterie.tasks.task.TaskKind`."""
        return rebuild_method(recipe, description)

    @property
    def sample_size(self) -> str:
        """See :class:`coterie.tasks.task.Task`."""
        settings = data_of(self.recipe)
        return f"up to {settings.max_seconds:g} s of {settings.sample_rate:,} samples a second"

    def build_method(self) -> Method:
        """Build student, teachers and method for these data."""
        method = make_method(self.recipe, self.network, self.normalize, self.encoders)
        training = self.recipe.training
        wanting = {
            "training.patience": training.patience is not None,
            "training.select=best": training.select == "best",
        }
        for what, needed in wanting.items():
            if needed and self.data.validation is None:
                raise CoterieError(f"{what} needs a validation split, and there is none; set data.validation")
        if data_of(self.recipe).cache_states:
            self._cache_states(method)
        return method

    def _cache_states(self, method: EnsembleKD) -> None:
        """Add the teachers' cached states to training batches; they are computed when the first batch is drawn."""
        assert isinstance(self.data.train, SpeechTrainLoader)
        size, most = resolved(self.recipe.training.batch_size), most_samples(data_of(self.recipe))
        states = CachedStates(self.sets.clips["train"], self.encoders.each(), method.layers, size, most)
        self.data.train.states = states
        info = replace(self.data.info, notes=(*self.data.info.notes, states.explain()))
        self.data = replace(self.data, info=info)

    def evaluate(self, method: Method, loader: EvaluationLoader) -> SpeechEvaluation:
        """See :func:`coterie.tasks.speech.evaluation.measure`. If there are labels, probes are measured too on the test split."""
        found = measure(method, self.encoders, loader, self.accelerator)
        if loader is self.data.test and self.sets.label_names:
            found = self._probed(method, found)
        if loader is not self.data.train_evaluation or not (self.data.test or self.data.validation):
            self._measured, self._measured_on, self._evaluated = found, loader, method
        return found

    def _probed(self, method: Method, found: SpeechEvaluation) -> SpeechEvaluation:
        config: Any = self.network.config
        unlearnt = build_encoder(describe_config(config), self.recipe.seed + 1)
        encoders = {STUDENT: as_ekd(method).encoder, RANDOM: SpeechEncoder(unlearnt, self.normalize)}
        encoders |= {self._name(number): each for number, each in enumerate(self.encoders.each())}
        for each in encoders.values():
            each.to(self.accelerator.device).eval()
        settings, device = data_of(self.recipe), self.accelerator.device
        size = resolved(self.recipe.training.batch_size)
        train, test = (
            SpeechEvaluationLoader(self.sets.clips[split], settings, size, device, limit=CLIPS)
            for split in ("train", "test")
        )
        probes = probe(encoders, train, test, list(self.sets.label_names), settings.probe == "weighted_layers")
        return with_probes(found, probes, STUDENT) if probes.shares[STUDENT] else found

    def _name(self, number: int) -> str:
        """Return the unique name of a teacher."""
        return f"teacher {number} ({self.teachers[number].note['network']})"

    def evaluate_teachers(self, method: Method, loader: EvaluationLoader) -> list[dict[str, Any]]:
        """Return what the run records about each teacher, with its probes and costs."""
        probes = self._measured.probes if self._measured else {}
        rate, rows = data_of(self.recipe).sample_rate, []
        for number, (each, encoder) in enumerate(zip(self.teachers, self.encoders.each(), strict=True)):
            rows.append({**each.note, **means_of(probes.get(self._name(number), {})), **costs(encoder, rate)})
        return rows

    def final_figures(self, evaluation: Evaluation) -> dict[str, Any]:
        """Return the figures of the evaluation and, after training, the student's costs."""
        if not self.trains or self._evaluated is None:
            return evaluation.figures
        own = costs(as_ekd(self._evaluated).encoder, data_of(self.recipe).sample_rate)
        return {**evaluation.figures, "cost": own}

    def choose_deployed(self, method: Method, validation: Evaluation | None) -> Deployment:
        """Choose the only student."""
        return Deployment(0, "")

    def describe_student(self, figures: dict[str, Any]) -> dict[str, Any]:
        """Return the contents of ``student.json``."""
        config: Any = self.network.config
        return {
            "task": self.recipe.task,
            "network": self.network_names[0],
            "config": describe_config(config),
            "sample_rate": data_of(self.recipe).sample_rate,
            "normalize": self.normalize,
            "class_names": [],
            "method": self.recipe.method.name,
            "data": self.data.info.name,
            "student": 0,
            "teachers": [each.note for each in self.teachers],
            "figures": {key: value for key, value in figures["deployed"].items() if key != "student"},
        }

    def save_student(self, folder: RunFolder, network: nn.Module, method: Method, figures: dict[str, Any]) -> None:
        """Save weights and description of the student."""
        save_student(folder, network, self.describe_student(figures))

    def examples(self, evaluation: Evaluation) -> Tensor:
        """Choose evenly spaced clips."""
        assert self._measured_on is not None
        count = min(EXAMPLES, self._measured_on.num_samples)
        return torch.arange(count) * self._measured_on.num_samples // count

    def save_examples(self, folder: RunFolder, split: str, indices: Tensor) -> None:
        """Save spectrograms of clips, and the frames in which student and teachers differ, see :mod:`coterie.tasks.speech.panels`."""
        assert self._evaluated is not None
        assert self._measured is not None
        clips, settings, device = self.sets.clips[split], data_of(self.recipe), self.accelerator.device
        kept = []
        for index in indices.tolist():
            samples = clips.read(index, 0, min(int(clips.lengths[index]), most_samples(settings)))
            found = frame_differences(self._evaluated, self.encoders, torch.from_numpy(samples)[None].to(device))
            kept.append((clips.names[index], samples, found.cpu().numpy()))
        names = [each.note["network"] for each in self.teachers]
        panels.save(folder, split, settings.sample_rate, self._measured.figures, names, kept)


def _require_same_teachers(teachers: list[Any], description: dict[str, Any]) -> None:
    """Refuse to compare a student with teachers that it did not have.

    Raises:
        CoterieError: the number of teachers or their weights differ.
    """
    for each, note in zip(teachers, description["teachers"], strict=True):
        if each.note["sha256"] != note.get("sha256"):
            raise CoterieError(
                f"the teacher {each.note['source']!r} has other weights now than when the run learnt from it"
            )


def _require_no_classes(recipe: Recipe) -> None:
    """Refuse settings that have no meaning for hidden states.

    Raises:
        CoterieError: one of them is set.
    """
    training, name = recipe.training, recipe.task
    if recipe.data.views == "per_student":
        raise CoterieError(f"data.views=per_student: there is one student of task={name}")
    for key, unset in (("class_weights", "none"), ("label_loss", "cross_entropy"), ("label_smoothing", 0.0)):
        if getattr(training, key) != unset:
            raise CoterieError(f"training.{key} is for classes, and task={name} learns hidden states")
