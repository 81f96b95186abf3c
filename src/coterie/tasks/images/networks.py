"""Builds networks, students and method from a recipe, for a given image size and number of classes. Needs no data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from coterie.errors import CoterieError
from coterie.methods import find_method
from coterie.methods.group_method import GroupMethod
from coterie.methods.method import Method
from coterie.networks.branching import NetworkSource, branch
from coterie.networks.creation import create_network
from coterie.networks.group import StudentGroup
from coterie.networks.initialization import restart_classifier
from coterie.networks.options import require_harmless_options
from coterie.networks.papers.registration import register
from coterie.networks.teacher import Teachers
from coterie.networks.tracing import find_classifier
from coterie.networks.weights import load_weights
from coterie.randomness import derive_seed, seeded
from coterie.recipe import Recipe
from coterie.recipe.sections import AUTO
from coterie.tasks.construction import method_of
from coterie.tasks.images.pretrained import require_at_hand
from coterie.tasks.images.settings import network_of

ImageSize = tuple[int, int, int]  # channels, height, width
DEFAULT_NETWORK = "tiny_cifar"


def network_names(recipe: Recipe) -> list[str]:
    """Returns the timm names of the recipe's networks: one, or one for each student."""
    name = recipe.network.name
    if name == AUTO:
        raise CoterieError(f"network.name is chosen by the images; method={recipe.method.name} needs one that is named")
    return list(name) if isinstance(name, list) else [name or DEFAULT_NETWORK]


def network_options(recipe: Recipe, name: str, input_size: ImageSize) -> dict[str, Any]:
    """Returns the arguments of ``timm.create_model``, except the number of classes, with which the student can be rebuilt."""
    import timm

    register()
    require_harmless_options(network_of(recipe).options, "network.options")
    channels, height, width = input_size
    options: dict[str, Any] = {"in_chans": channels} if channels != 3 else {}
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is not None and config.fixed_input_size and tuple(config.input_size[1:]) != (height, width):
        options["img_size"] = [height, width]
    return options | network_of(recipe).options


def pretrained_config(recipe: Recipe) -> dict[str, Any] | None:
    """Returns timm's configuration (statistics, input size) of the pretrained network; None if the recipe uses none."""
    if recipe.network.pretrained is not True:
        return None
    import timm

    register()
    name = network_names(recipe)[0]
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return config.to_dict() if config is not None else None


def build_method(
    recipe: Recipe,
    num_classes: int,
    input_size: ImageSize,
    network: NetworkSource | None = None,
    label_loss: nn.Module | None = None,
    teachers: Teachers | None = None,
) -> GroupMethod:
    """Builds students and method, with initial weights that depend only on the seed and the student's number.

    Student 0 therefore starts from the same weights with every method and number of students, including a single baseline network.

    Teachers are passed to a method that takes them; they are added to any other method according to the recipe's ``teaching``.

    Raises:
        CoterieError: a method, network, split point or argument is unknown, or the network has another number of outputs.
    """
    group = _build_group(recipe, find_method(recipe.method.name), num_classes, input_size, network)
    if group.num_classes != num_classes:
        raise CoterieError(f"the network has {group.num_classes} outputs, the data have {num_classes} classes")
    return method_of(recipe, group, label_loss, teachers)


def _build_group(
    recipe: Recipe,
    method: type[Method],
    num_classes: int,
    input_size: ImageSize,
    network: NetworkSource | None,
) -> StudentGroup:
    settings = network_of(recipe)
    names = network_names(recipe) if network is None else []
    if settings.weights is not None and (settings.pretrained is True or len(names) > 1 or network is not None):
        raise CoterieError(
            f"network.weights={settings.weights!r} is for one network.name without network.pretrained; "
            "weights of a module of your own are loaded before it is passed"
        )

    def create(name: str) -> nn.Module:
        import timm

        if settings.pretrained is True:
            require_at_hand(name, "network.pretrained")
        created = create_network(
            name,
            pretrained=settings.pretrained is True,  # an unresolved auto means no
            num_classes=num_classes,
            **network_options(recipe, name, input_size),
        )
        config = timm.get_pretrained_cfg(name) if settings.pretrained is True else None
        if config is not None and config.num_classes != num_classes:
            restart_classifier(created, find_classifier(created))
        if settings.weights is not None:
            load_weights(
                created,
                Path(settings.weights).expanduser(),
                "network.weights",
                name,
                classifier=find_classifier(created),
            )
        return created

    start: NetworkSource = network if network is not None else lambda: create(names[0])
    if network is None and len(names) > 1:
        if settings.branches not in {None, len(names)}:
            raise CoterieError(f"network.branches={settings.branches} differs from the {len(names)} networks named")
        if settings.at not in {None, "peers"}:
            raise CoterieError(f"network.at={settings.at!r}: different networks share no trunk; use network.at=peers")
        peers = []
        for position, name in enumerate(names):
            with seeded(derive_seed(recipe.seed, "student", position)):
                peers.append(create(name))
        return StudentGroup.of(peers, torch.zeros(2, *input_size), taps="stages" if method.uses_taps else ())
    at = method.default_at if settings.at is None else None if settings.at == "peers" else settings.at
    return branch(
        start,
        branches=settings.branches or method.default_branches,
        at=at,
        init="copy" if settings.pretrained is True or settings.weights is not None else "fresh",
        seed=recipe.seed,
        example=torch.zeros(2, *input_size),
        trunk_gradient=settings.trunk_gradient,
        taps="stages" if method.uses_taps else (),
    )
