"""Builds the teachers, the student and the method of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from coterie.errors import CoterieError
from coterie.files import digest
from coterie.methods import find_method
from coterie.methods.options import check_options
from coterie.methods.speech.ekd import EnsembleKD
from coterie.methods.speech.encoder import EncoderTeachers, SpeechEncoder
from coterie.networks.hugging_face import describe_config
from coterie.randomness import derive_seed, seeded
from coterie.recipe import Recipe
from coterie.recipe.sections import AUTO
from coterie.run_folder import RunFolder
from coterie.student import load_student
from coterie.tasks.speech.networks import (
    Hearing,
    build_encoder,
    copy_weights,
    digest_of_weights,
    display_name,
    is_configuration,
    load_encoder,
    read_hearing,
    read_values,
)
from coterie.tasks.speech.settings import SpeechTeacher, data_of, network_of

LAYERS = 2  # of a student with a teacher's configuration, as in DistilHuBERT


@dataclass(frozen=True)
class Teacher:
    """A loaded teacher.

    Attributes:
        network: network of transformers with its weights.
        hearing: its preprocessing of clips.
        note: what the run records about it.
    """

    network: nn.Module
    hearing: Hearing
    note: dict[str, Any]


def read_teachers(recipe: Recipe) -> list[Teacher]:
    """Load the recipe's teachers with their weights.

    Raises:
        CoterieError: neither or both of a run and a network are named, there are no weights, or the rate differs.
    """
    return [_read_teacher(settings, data_of(recipe).sample_rate) for settings in recipe.all_teachers()]


def _read_teacher(settings: Any, rate: int) -> Teacher:
    assert isinstance(settings, SpeechTeacher)
    if (settings.run is None) == (settings.network is None):
        raise CoterieError(
            "a teacher is teacher.run=FOLDER, or teacher.network=a folder with its weights or a name of the Hub"
        )
    dtype: torch.dtype = getattr(torch, settings.dtype)
    if settings.run is not None:
        folder = RunFolder(settings.run)
        description = folder.read_description()
        if description["sample_rate"] != rate:
            raise CoterieError(
                f"{settings.run!r} hears {description['sample_rate']:,} samples a second, and data.sample_rate={rate}"
            )
        network = load_student(settings.run).to(dtype)
        own = description["normalize"] if settings.normalize == AUTO else settings.normalize
        hearing, name = Hearing(own, rate), description["network"]
        weights: str | None = digest(folder.student)
    else:
        source = str(settings.network)
        hearing = read_hearing(source, settings.normalize, "teacher.normalize", rate)
        if is_configuration(source):
            network = build_encoder(read_values(source)).to(dtype)
        else:
            network = load_encoder(source, dtype)
        name, weights = display_name(source), digest_of_weights(source)
    config: Any = network.config
    note = {"source": settings.run or settings.network, "network": name, "sha256": weights}
    note |= {"config": describe_config(config), "normalize": hearing.normalize}
    return Teacher(network, hearing, note)


@dataclass(frozen=True)
class Start:
    """Configuration and initialisation of a student.

    Attributes:
        values: values of its configuration.
        source: folder or name with its own weights; empty: none are loaded.
        initialize: ``fresh``, ``average`` or a teacher's index; ``fresh`` for a student with its own weights.
        normalize: whether its clips are normalised.
    """

    values: dict[str, Any]
    source: str
    initialize: str | int
    normalize: bool


def find_start(recipe: Recipe, teachers: Sequence[Teacher]) -> Start:
    """Find the configuration and initialisation of the recipe's student, without building it.

    Raises:
        CoterieError: there is no configuration, the teacher does not exist, the weights have fewer layers, or a setting has no effect.
    """
    settings = network_of(recipe)
    name = "" if settings.name in (None, AUTO) else str(settings.name)
    if not name:
        if not teachers:
            raise CoterieError("network=auto is after the first teacher, and there is none; name a network")
        values = dict(teachers[0].note["config"])
        depth = min(LAYERS, values["num_hidden_layers"]) if settings.layers == AUTO else settings.layers
    else:
        values = read_values(name)
        depth = values.get("num_hidden_layers", 12) if settings.layers == AUTO else settings.layers
    has_own = bool(name) and not is_configuration(name) and settings.pretrained is not False
    if settings.pretrained is True and not has_own:
        raise CoterieError("network.pretrained=true needs network.name: a folder with weights, or a name of the Hub")
    if has_own and isinstance(depth, int) and depth > values["num_hidden_layers"]:
        raise CoterieError(f"network.layers={depth}: {name!r} has {values['num_hidden_layers']}")
    initialize: str | int = settings.initialize
    if has_own and initialize not in (AUTO, "fresh"):
        raise CoterieError(
            f"network.initialize={initialize} has no effect: {name!r} has weights of its own; set network.pretrained=false"
        )
    if initialize == AUTO:
        initialize = "fresh" if name else 0
    if isinstance(initialize, int) and initialize >= len(teachers):
        raise CoterieError(f"network.initialize={initialize}: there are {len(teachers)} teachers, numbered from 0")
    rate = data_of(recipe).sample_rate
    if not name or (is_configuration(name) and settings.normalize == AUTO):
        own = teachers[0].hearing.normalize
        normalize = own if settings.normalize == AUTO else bool(settings.normalize)
    else:
        normalize = read_hearing(name, settings.normalize, "network.normalize", rate).normalize
    return Start({**values, "num_hidden_layers": depth}, name if has_own else "", initialize, normalize)


def build_student(recipe: Recipe, start: Start, teachers: Sequence[Teacher]) -> tuple[nn.Module, list[str]]:
    """Build the plain network that becomes the student; also return the names of weights that its teachers do not have."""
    if start.source:
        return load_encoder(start.source, layers=start.values["num_hidden_layers"]), []
    network = build_encoder(start.values, recipe.seed)
    if start.initialize == "fresh":
        return network, []
    chosen = teachers if start.initialize == "average" else [teachers[int(start.initialize)]]
    return network, copy_weights(network, [each.network for each in chosen])


def make_teachers(networks: Sequence[nn.Module], notes: Sequence[dict[str, Any]]) -> EncoderTeachers:
    """Build frozen encoders with their recorded preprocessing."""
    pairs = zip(networks, notes, strict=True)
    return EncoderTeachers([SpeechEncoder(network, note["normalize"], name=note["network"]) for network, note in pairs])


def make_method(recipe: Recipe, network: nn.Module, normalize: bool, teachers: EncoderTeachers) -> EnsembleKD:
    """Build the recipe's method.

    Raises:
        CoterieError: the method is not for speech encoders, or does not accept the settings.
    """
    kind = require_encoder_method(recipe)
    encoder = SpeechEncoder(network, normalize, network_of(recipe).cnn_gradient)
    with seeded(derive_seed(recipe.seed, "method")):
        return kind(encoder, teachers=teachers, **check_options(kind, recipe.method.options, unused="drop"))


def require_encoder_method(recipe: Recipe) -> type[EnsembleKD]:
    """Return the class of the recipe's method.

    Raises:
        CoterieError: it is not for speech encoders.
    """
    kind = find_method(recipe.method.name)
    if not issubclass(kind, EnsembleKD):
        raise CoterieError(
            f"method={recipe.method.name} compares predictions, and encoders of task={recipe.task} give hidden states; expected ekd"
        )
    return kind


def rebuild_method(recipe: Recipe, description: dict[str, Any]) -> EnsembleKD:
    """Build a finished run's method; its teachers have the recorded architectures, without their weights."""
    notes = description["teachers"]
    teachers = make_teachers([build_encoder(note["config"]) for note in notes], notes)
    return make_method(recipe, build_encoder(description["config"]), description["normalize"], teachers)
