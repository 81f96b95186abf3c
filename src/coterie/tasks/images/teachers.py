"""Builds frozen teachers from a recipe: sources of their weights, their expected inputs, and the notes about them in the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from coterie.errors import CoterieError
from coterie.files import digest
from coterie.methods import find_method
from coterie.methods.options import check_options
from coterie.networks.creation import create_network
from coterie.networks.options import require_harmless_options
from coterie.networks.papers.registration import register
from coterie.networks.teacher import Statistics, Teacher, Teachers
from coterie.networks.weights import load_weights
from coterie.recipe import Recipe, load_recipe
from coterie.run_folder import RunFolder
from coterie.student import load_student
from coterie.tasks.construction import class_order
from coterie.tasks.images.networks import network_names, network_options
from coterie.tasks.images.pretrained import require_at_hand
from coterie.tasks.images.settings import ImageTeacher, teachers_of


class Expectation:
    """The students' inputs and classes: image size, normalisation, and class names.

    Args:
        num_classes: number of classes, K.
        input_size: (C, H, W).
        statistics: mean and standard deviation of the normalisation; None: unknown (when a method is only rebuilt).
        class_names: names to compare with those of a teacher's run; None: unknown.
    """

    def __init__(
        self,
        num_classes: int,
        input_size: tuple[int, int, int],
        statistics: Statistics | None = None,
        class_names: list[str] | None = None,
    ) -> None:
        self.num_classes = num_classes
        self.input_size = input_size
        self.statistics = statistics
        self.class_names = class_names


def build_teachers(recipe: Recipe, expected: Expectation) -> tuple[Teachers | None, list[dict[str, Any]]]:
    """Builds the recipe's teachers, or None, and the notes about each: its source, its architecture, a hash of its weights.

    Raises:
        CoterieError: weights are missing, damaged or do not fit, the classes differ, or the teacher does not accept the images.
    """
    built: list[Teacher] = []
    notes: list[dict[str, Any]] = []
    for settings in teachers_of(recipe):
        teacher, note = _build(settings, expected)
        built.append(teacher)
        notes.append(note)
    return (Teachers(built) if built else None), notes


def first_stage(recipe: Recipe) -> Recipe | None:
    """Returns the recipe of the method's first stage: the teacher's network, trained by that stage's method; None if there is no first stage.

    Raises:
        CoterieError: there is not exactly one teacher with a named network, or the method does not take an argument.
    """
    method = find_method(recipe.method.name)
    if method.first_stage is None:
        return None
    check_options(method, recipe.method.options, unused="drop")  # report invalid options before a long first stage
    teachers = teachers_of(recipe)
    if len(teachers) != 1:
        raise CoterieError(f"{recipe.method.name} starts from one teacher, got {len(teachers)}; set teacher.run=FOLDER")
    (teacher,) = teachers
    name, options, description = teacher.network, teacher.options, None
    if teacher.run is not None:
        description = RunFolder(teacher.run).require().read_description()
        _require_images(teacher.run, description)
        name, options = description["network"], description["options"]
        require_harmless_options(options, "student.json: options of the teacher")
    if name is None:
        raise CoterieError(f"{recipe.method.name} prunes the teacher's network, which must be one that timm builds")
    own = {key: value for key, value in recipe.method.options.items() if key in method.first_stage_options}
    student = network_names(recipe)[0]
    if description is not None and timm.is_model(student):
        size, classes = tuple(description["input_size"]), description["num_classes"]
        counts = [
            sum(parameter.numel() for parameter in create_network(each, num_classes=classes, **given).parameters())
            for each, given in ((student, network_options(recipe, student, size)), (str(name), options))
        ]
        own["smallest"] = round(min(1.0, counts[0] / counts[1]), 4)
    tree = recipe.model_dump()
    tree["method"] = {"name": method.first_stage, **own}
    tree["network"] |= {"name": name, "options": options, "branches": None, "at": None, "pretrained": False}
    return load_recipe(tree)


def untrained_teachers(notes: list[dict[str, Any]], expected: Expectation) -> Teachers | None:
    """Builds teachers of the noted architectures without their weights, to rebuild a finished run's method.

    Raises:
        CoterieError: a teacher was a custom module.
    """
    built = []
    for note in notes:
        if note["network"] is None:
            raise CoterieError("the run was taught by a module of your own, and cannot be rebuilt without it")
        require_harmless_options(note["options"], "student.json: options of a teacher")
        network = create_network(note["network"], num_classes=expected.num_classes, **note["options"])
        size = note["image_size"]
        built.append(_teacher(network, expected, note["network"], (size, size) if size else None, None))
    return Teachers(built) if built else None


def own_teachers(networks: list[nn.Module], expected: Expectation) -> tuple[Teachers, list[dict[str, Any]]]:
    """Builds teachers from custom modules, which get the same inputs as the students."""
    built = [_teacher(network, expected, type(network).__name__, None, None) for network in networks]
    notes: list[dict[str, Any]] = [
        {"source": type(each).__name__, "network": None, "options": {}, "sha256": None, "image_size": None}
        for each in networks
    ]
    return Teachers(built), notes


def _build(settings: ImageTeacher, expected: Expectation) -> tuple[Teacher, dict[str, Any]]:
    chosen = [key for key in ("run", "weights", "pretrained") if getattr(settings, key)]
    if len(chosen) != 1 or (settings.run is None) != (settings.network is not None):
        raise CoterieError(
            "a teacher is teacher.run=FOLDER, or teacher.network=NAME with teacher.weights=FILE or teacher.pretrained=true"
        )
    channels, order = expected.input_size[0], None
    for key, values in (("mean", settings.mean), ("std", settings.std)):
        if values is not None and (len(values) != channels or settings.mean is None or settings.std is None):
            raise CoterieError(
                f"teacher.{key}={values}: expected {channels} value(s), one for each channel, and teacher.mean together with teacher.std"
            )
    if settings.run is not None:
        network, name, options, config, source, weights = _from_run(settings.run)
        if expected.class_names is not None:
            order = class_order(settings.run, config["class_names"], expected.class_names)
    else:
        network, name, options, config, source, weights = _from_name(settings, expected)
    mean, std = settings.mean or config.get("mean"), settings.std or config.get("std")
    statistics = Statistics(tuple(mean), tuple(std)) if mean and std else None
    side = settings.image_size or config.get("side")
    teacher = _teacher(network, expected, name, (side, side) if side else None, statistics, order)
    note = {"source": source, "network": name, "options": options, "sha256": weights, "image_size": side}
    return teacher, note | {key: config[key] for key in ("part",) if config.get(key)}


Loaded = tuple[nn.Module, str, dict[str, Any], dict[str, Any], str, str | None]


def _from_run(run: str) -> Loaded:
    network = load_student(run)
    description = RunFolder(run).read_description()
    _require_images(run, description)
    config = {
        "class_names": description["class_names"],
        "mean": description["mean"],
        "std": description["std"],
        "side": description["input_size"][1],
    }
    weights = digest(RunFolder(run).student)
    return network, description["network"], description["options"], config, str(run), weights


def _require_images(run: str, description: dict[str, Any]) -> None:
    if "input_size" not in description:
        raise CoterieError(f"the teacher {run!r} was trained on texts, the data are images")


def _from_name(settings: ImageTeacher, expected: Expectation) -> Loaded:
    name, classes = str(settings.network), expected.num_classes
    options = dict(settings.options)
    require_harmless_options(options, "teacher.options")
    if not settings.pretrained:
        network = create_network(name, num_classes=classes, **options)
        path = Path(str(settings.weights))
        part = load_weights(network, path, "teacher.weights", name)
        return network, name, options, {"part": part}, str(path), digest(path)
    register()
    entry = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if entry is not None and entry.num_classes != classes:  # before the download
        raise CoterieError(
            f"the pretrained teacher {name!r} has {entry.num_classes} classes, the data have {classes}; "
            "fine-tune it to the data first, by a run of its own"
        )
    require_at_hand(name, "teacher.pretrained")
    network = create_network(name, pretrained=True, **options)
    config: dict[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    size = config.get("input_size") or expected.input_size
    found = {"mean": config.get("mean"), "std": config.get("std"), "side": size[1]}
    return network, name, options, found, "timm's pretrained weights", None


def _teacher(
    network: nn.Module,
    expected: Expectation,
    name: str,
    size: tuple[int, int] | None,
    statistics: Statistics | None,
    class_order: list[int] | None = None,
) -> Teacher:
    teacher = Teacher(
        network,
        torch.zeros(2, *expected.input_size),
        size=size,
        statistics=statistics,
        student_statistics=expected.statistics,
        name=name,
        class_order=class_order,
    )
    if teacher.num_classes != expected.num_classes:
        raise CoterieError(
            f"the teacher {name!r} has {teacher.num_classes} classes, the data have {expected.num_classes}"
        )
    return teacher
