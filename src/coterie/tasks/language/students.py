"""Builds the students, teachers and method of a recipe: weights, kept layers, LoRA, and checks of settings that language models do not support."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from coterie.errors import CoterieError
from coterie.methods import find_method
from coterie.methods.group_method import GroupMethod
from coterie.networks.hugging_face import config_of, describe_config, require_embedded
from coterie.networks.initialization import copied
from coterie.networks.teacher import Teacher, Teachers
from coterie.randomness import derive_seed
from coterie.recipe import Recipe
from coterie.tasks.construction import method_of, require_no_images
from coterie.tasks.language.causal_lm import CausalLM, LanguageGroup
from coterie.tasks.language.layers import cut_layers, kept_layers
from coterie.tasks.language.lora import add_lora, save_memory
from coterie.tasks.language.networks import build_causal_lm, load_causal_lm
from coterie.tasks.language.settings import LanguageNetwork, network_of
from coterie.tasks.language.sources import LanguageTeacherFound, student_names, student_source


def load_students(recipe: Recipe, tokenizer: Any) -> list[nn.Module]:
    """Load the plain networks that become students, with initial values or with the named weights.

    Several students with the same weights are copies, of which all but the first are slightly perturbed, since equal students would stay equal. With LoRA, its
    different initial values make them differ.

    Args:
        recipe: a fitted recipe: ``network.pretrained`` is resolved.
        tokenizer: the tokenizer of the data.

    Raises:
        CoterieError: the number of networks differs from the number of students, settings do not fit the weights or networks, or the tokenizer has more tokens than a network.
    """
    settings, names, count = network_of(recipe), student_names(recipe), num_students(recipe)
    if len(names) > 1 and settings.branches not in {None, len(names)}:
        raise CoterieError(f"network.branches={settings.branches} differs from the {len(names)} networks named")
    _require_weights(settings, names)
    networks: list[nn.Module] = []
    first: dict[str, int] = {}  # for each name, the student with its unchanged weights
    for number in range(count):
        seed = derive_seed(recipe.seed, "student", number)
        name = names[number if len(names) > 1 else 0] if names else ""
        if settings.pretrained and name in first:
            twin = networks[first[name]]
            networks.append(copied(twin, "", seed) if settings.lora.rank is None else copy.deepcopy(twin))
            continue
        first[name] = number
        source = student_source(recipe, number, tokenizer)
        network = load_causal_lm(source, seed=seed, pretrained=bool(settings.pretrained))
        networks.append(_cut(network, settings))
        require_embedded(networks[-1], tokenizer, name or "the small network")
    return networks


def num_students(recipe: Recipe) -> int:
    """Return the number of students of a recipe."""
    named = len(student_names(recipe))
    return named if named > 1 else network_of(recipe).branches or find_method(recipe.method.name).default_branches


def _require_weights(settings: LanguageNetwork, names: Sequence[str]) -> None:
    for key in ("layers", "every"):
        if getattr(settings, key) is not None and not settings.pretrained:
            raise CoterieError(
                f"network.{key} keeps some of the layers of weights, and none are loaded; name a network with weights"
            )
    if settings.layers is not None and settings.every is not None:
        raise CoterieError("network.layers and network.every say the same in two ways; set one of them")
    if settings.pretrained and not names:
        raise CoterieError("network.pretrained=true needs network.name: a folder with weights, or a name of the Hub")
    if settings.pretrained and (sizes := next((each for each in names if each.endswith(".json")), None)):
        raise CoterieError(
            f"network.pretrained=true, and {sizes!r} holds sizes but no weights; name a folder or the Hub"
        )
    if settings.lora.rank is not None and not settings.pretrained:
        raise CoterieError(
            "network.lora trains a few numbers beside weights, and none are loaded; name a network with weights"
        )


def _cut(network: nn.Module, settings: LanguageNetwork) -> nn.Module:
    """Return the network with only the layers to keep."""
    if settings.layers is None and settings.every is None:
        return network
    count = int(network.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
    return cut_layers(network, kept_layers(count, layers=settings.layers, every=settings.every))


def require_positions(networks: Sequence[nn.Module], block_length: int) -> None:
    """Check that every network has a position for every token of a row.

    Raises:
        CoterieError: a network has fewer.
    """
    for network in networks:
        room = getattr(network.config, "max_position_embeddings", None)
        if room is not None and block_length > room:
            raise CoterieError(
                f"data.block_length={block_length} is above the {room} positions of {type(network).__name__}; set data.block_length={room} or less"
            )


def make_group(recipe: Recipe, networks: Sequence[nn.Module], vocabulary: int | None) -> LanguageGroup:
    """Build the group of students from plain networks, with LoRA and gradient checkpointing as the recipe says.

    Args:
        recipe: its ``network`` and ``seed`` are read.
        networks: the networks; the group owns them afterwards.
        vocabulary: number of logits to compare; None: all.
    """
    settings = network_of(recipe)
    lora = settings.lora
    students = []
    for number, network in enumerate(networks):
        if lora.rank is not None:
            seed = derive_seed(recipe.seed, "student", number)
            network = add_lora(
                network, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets, seed=seed
            )
        if settings.gradient_checkpointing:
            save_memory(network)
        students.append(CausalLM(network, vocabulary))
    return LanguageGroup(students)


def make_teachers(networks: Sequence[nn.Module], names: Sequence[str], vocabulary: int | None) -> Teachers | None:
    """Build frozen teachers with the students' vocabulary; None without teachers."""
    built = []
    for network, name in zip(networks, names, strict=True):
        network.eval()
        parts = CausalLM(network, vocabulary)
        built.append(Teacher(parts, parts.example(), name=name, in_parts=True))
    return Teachers(built) if built else None


def whole_note(group: LanguageGroup, teachers: Teachers | None) -> str | None:
    """Return a note naming the networks whose logits cannot be computed in chunks, since what follows their output embedding is unknown; None: there are none."""
    named = [(f"student {number}", each) for number, each in enumerate(group.branches)]
    named += [(f"the teacher {each.name}", each.body) for each in (teachers.each() if teachers is not None else [])]
    whole = [name for name, each in named if isinstance(each, CausalLM) and each.finish is None]
    if not whole:
        return None
    return f"the logits of {', '.join(whole)} cannot be computed in parts, since they are no plain function of the output embedding's"


def make_method(
    recipe: Recipe,
    group: LanguageGroup,
    teachers: Teachers | None,
    label_loss: nn.Module | None = None,
) -> GroupMethod:
    """Build the recipe's method for language models.

    Raises:
        CoterieError: the method reads the stages of image networks, mixes inputs, or learns from all predictions on a validation split.
    """
    require_no_images(recipe)
    method = method_of(recipe, group, label_loss, teachers)
    if method.needs_validation and type(method).after_validation is not GroupMethod.after_validation:
        raise CoterieError(
            f"method={recipe.method.name} with these settings keeps all predictions on the validation split, which of a vocabulary are too many"
        )
    return method


def describe_networks(networks: Sequence[nn.Module]) -> list[dict[str, Any]]:
    """Return the students' configurations, from which :func:`rebuild_students` rebuilds them."""
    return [describe_config(network.config) for network in networks]


def rebuild_students(recipe: Recipe, configs: Sequence[dict[str, Any]], vocabulary: int | None) -> LanguageGroup:
    """Build a finished run's students without their weights."""
    return make_group(recipe, [build_causal_lm(config_of(config)) for config in configs], vocabulary)


def rebuild_teachers(notes: Sequence[dict[str, Any]], vocabulary: int | None) -> Teachers | None:
    """Build teachers with the recorded architectures, without their weights."""
    networks = [build_causal_lm(config_of(note["config"])) for note in notes]
    return make_teachers(networks, [note["network"] for note in notes], vocabulary)


def all_networks(students: Sequence[nn.Module], teachers: Sequence[LanguageTeacherFound]) -> dict[str, nn.Module]:
    """Return students and teachers by unique names."""
    named = {f"student {number}": network for number, network in enumerate(students)}
    return named | {f"teacher {each.note['network']}": each.network for each in teachers}
