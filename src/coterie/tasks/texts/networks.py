"""Builds students and teachers from a text recipe: sources of their weights, the token table that each reads, and the notes about them in the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.files import digest
from coterie.methods import find_method
from coterie.methods.group_method import GroupMethod
from coterie.networks.group import StudentGroup
from coterie.networks.hugging_face import describe_config, has_weights, read_config, require_embedded
from coterie.networks.initialization import copied
from coterie.networks.teacher import Teacher, Teachers
from coterie.randomness import derive_seed, seeded
from coterie.recipe import Recipe
from coterie.recipe.fitting import Facts, fit, with_settings
from coterie.recipe.sections import AUTO, TeacherRecipe
from coterie.run_folder import RunFolder
from coterie.student import load_student
from coterie.tasks.construction import class_order, method_of, require_no_images
from coterie.tasks.texts.sequence_classifier import (
    SequenceClassifier,
    SequenceGroup,
    build_classifier,
    example_inputs,
    load_classifier,
    read_tokenizer,
    tokenizer_key,
    with_classes,
    with_padding,
)


def student_names(recipe: Recipe) -> list[str]:
    """Returns the recipe's networks: one, or one for each student.

    Raises:
        CoterieError: the recipe names none.
    """
    name = recipe.network.name
    if not name or name == AUTO:
        raise CoterieError(
            "task=text_classification needs network.name: a folder with config.json and a tokenizer, or a name of the Hub"
        )
    return list(name) if isinstance(name, list) else [name]


def fit_texts(recipe: Recipe, samples: int) -> tuple[Recipe, dict[str, str]]:
    """Returns the recipe with every ``auto`` resolved that depends on texts or networks, and the reason of each choice.

    Args:
        recipe: the recipe; its explicit settings are kept.
        samples: number of training texts.
    """
    settings: dict[str, object] = {}
    reasons: dict[str, str] = {}
    if recipe.network.pretrained == AUTO:
        bare = next((name for name in student_names(recipe) if not has_weights(name)), None)
        settings["network.pretrained"] = bare is None
        reasons["network.pretrained"] = "the weights are there" if bare is None else f"no weights in {bare}"
    settled_start = with_settings(recipe, settings)
    fitted, others = fit(settled_start, Facts("text network", bool(settled_start.network.pretrained), samples))
    return fitted, reasons | others


def students_tokenizer(recipe: Recipe) -> Any:
    """Returns the tokenizer of all students.

    Raises:
        CoterieError: there is none, or students of different architectures have different ones.
    """
    names = student_names(recipe)
    tokenizers = [read_tokenizer(name) for name in names]
    if len({tokenizer_key(each) for each in tokenizers}) > 1:
        raise CoterieError(
            f"the students {', '.join(names)} have different tokenizers; students of one group need the same"
        )
    return tokenizers[0]


def student_configs(recipe: Recipe, class_names: Sequence[str], tokenizer: Any) -> list[dict[str, Any]]:
    """Returns each student's configuration, for these classes and this tokenizer.

    Raises:
        CoterieError: a configuration is missing, or the numbers of networks and students differ.
    """
    names, branches = student_names(recipe), recipe.network.branches
    configs = [describe_config(with_padding(with_classes(read_config(name), class_names), tokenizer)) for name in names]
    if len(names) == 1:
        return configs * (branches or find_method(recipe.method.name).default_branches)
    if branches not in {None, len(names)}:
        raise CoterieError(f"network.branches={branches} differs from the {len(names)} networks named")
    return configs


def build_students(recipe: Recipe, configs: Sequence[dict[str, Any]], example: Inputs, *, load: bool) -> StudentGroup:
    """Builds peers, with initial weights that depend only on the seed and the student's number, or with pretrained weights.

    Several students with the same pretrained weights are slightly perturbed copies, each with its own classifier.

    Args:
        recipe: names the networks.
        configs: one configuration for each student.
        example: a batch.
        load: whether to load pretrained weights according to ``network.pretrained``; False if a checkpoint is loaded afterwards.
    """
    networks: list[nn.Module] = []
    names = student_names(recipe) if load and recipe.network.pretrained is True else []
    for number, config in enumerate(configs):
        seed = derive_seed(recipe.seed, "student", number)
        with seeded(seed):
            if not names:
                networks.append(build_classifier(config))
            elif number < len(names):
                networks.append(load_classifier(names[number], config, whole=False))
            else:
                classifier = SequenceClassifier.classifier_of(networks[0])
                networks.append(copied(networks[0], classifier, seed))
    return SequenceGroup(None, [SequenceClassifier(each, example) for each in networks], example=example)


def require_tokens(group: StudentGroup, tokenizer: Any, name: str) -> None:
    """Checks that every student's embedding has a row for every token of the tokenizer.

    Raises:
        CoterieError: the tokenizer has more tokens.
    """
    for branch in group.branches:
        assert isinstance(branch, SequenceClassifier)
        require_embedded(branch.network, tokenizer, name)


def build_method(
    recipe: Recipe,
    configs: Sequence[dict[str, Any]],
    example: Inputs,
    *,
    load: bool,
    label_loss: nn.Module | None = None,
    teachers: Teachers | None = None,
) -> GroupMethod:
    """Builds students and method, see :func:`coterie.tasks.images.networks.build_method`.

    Raises:
        CoterieError: the method needs images, or does not take a setting.
    """
    require_no_images(recipe)
    group = build_students(recipe, configs, example, load=load)
    return method_of(recipe, group, label_loss, teachers)


@dataclass(frozen=True)
class TextTeacher:
    """A loaded teacher: its network, its tokenizer, and the notes about it in the run."""

    network: nn.Module
    tokenizer: Any
    note: dict[str, Any]

    def at(self, slot: int) -> TextTeacher:
        """Returns the same teacher, set to read the token tables of this slot."""
        return replace(self, note={**self.note, "slot": slot})


def read_teachers(recipe: Recipe, class_names: Sequence[str]) -> list[TextTeacher]:
    """Loads the recipe's teachers with their weights.

    Raises:
        CoterieError: weights are missing, or the classes differ.
    """
    return [_read_teacher(settings, list(class_names)) for settings in recipe.all_teachers()]


def _read_teacher(settings: TeacherRecipe, class_names: list[str]) -> TextTeacher:
    if (settings.run is None) == (settings.network is None):
        raise CoterieError(
            "a teacher is teacher.run=FOLDER, or teacher.network=a folder with its weights, or a name of the Hub"
        )
    if settings.run is not None:
        folder = RunFolder(settings.run).require()
        network = load_student(settings.run)
        description = folder.read_description()
        if description.get("task") != "text_classification":
            raise CoterieError(f"the teacher {settings.run!r} was trained on images, the data are texts")
        order = class_order(settings.run, description["class_names"], class_names)
        note = {"source": settings.run, "network": description["network"], "sha256": digest(folder.student)}
        note |= {"config": description["config"], "class_order": order}
        return TextTeacher(network, read_tokenizer(folder.tokenizer), note)
    name = str(settings.network)
    config = read_config(name)
    names = [config.id2label[number] for number in range(config.num_labels)]
    if len(names) != len(class_names):
        raise CoterieError(f"the teacher {name!r} has {len(names)} classes, the data have {len(class_names)}")
    order = None
    if not all(
        label == f"LABEL_{number}" for number, label in enumerate(names)
    ):  # transformers' names for unnamed classes
        order = class_order(name, names, class_names)
    tokenizer = read_tokenizer(name)
    config = with_padding(config, tokenizer)
    network = load_classifier(name, config, whole=True)
    require_embedded(network, tokenizer, name)
    weights = Path(name).expanduser() / "model.safetensors"
    note = {"source": name, "network": shown(name), "sha256": digest(weights) if weights.is_file() else None}
    note |= {"config": describe_config(config), "class_order": order}
    return TextTeacher(network, tokenizer, note)


def with_slots(tokenizer: Any, teachers: Sequence[TextTeacher]) -> tuple[list[Any], list[TextTeacher]]:
    """Returns the distinct tokenizers, the students' first, and the teachers with the slot of their tokenizer."""
    slots = {tokenizer_key(tokenizer): 0}
    tokenizers, placed = [tokenizer], []
    for teacher in teachers:
        slot = slots.setdefault(tokenizer_key(teacher.tokenizer), len(tokenizers))
        if slot == len(tokenizers):
            tokenizers.append(teacher.tokenizer)
        placed.append(teacher.at(slot))
    return tokenizers, placed


def build_teachers(found: Sequence[TextTeacher], example: Inputs) -> Teachers | None:
    """Builds frozen teachers that read their token tables from a batch; None if there are none."""
    built = [_teacher(each.network, each.note, example) for each in found]
    return Teachers(built) if built else None


def untrained_teachers(notes: Sequence[dict[str, Any]], length: int) -> tuple[Teachers | None, Inputs]:
    """Builds teachers of the noted architectures without their weights, and an example batch with all their token tables."""
    example = example_inputs(1 + max((note["slot"] for note in notes), default=0), length)
    built = [_teacher(build_classifier(note["config"]), note, example) for note in notes]
    return (Teachers(built) if built else None), example


def _teacher(network: nn.Module, note: dict[str, Any], example: Inputs) -> Teacher:
    parts = SequenceClassifier(network, example, note["slot"])
    return Teacher(parts, example, name=note["network"], in_parts=True, class_order=note.get("class_order"))


def shown(name: str) -> str:
    """Returns a network's name without the local path of its folder."""
    path = Path(name).expanduser()
    return path.resolve().name if path.is_dir() else name
