"""Builds the generator and the method of a recipe, and rebuilds those of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coterie.errors import CoterieError
from coterie.methods import TABLE, find_method
from coterie.methods.options import check_options
from coterie.methods.restoration.restorer import Restorer
from coterie.networks.one_step.generator import OneStepGenerator, build_generator
from coterie.networks.one_step.latents import find_latents
from coterie.networks.one_step.unets import TINY, add_lora, find_diffusion
from coterie.randomness import derive_seed, seeded
from coterie.recipe import Recipe
from coterie.recipe.sections import AUTO, resolved
from coterie.tasks.restoration.settings import data_of, network_of


def network_name(recipe: Recipe) -> str:
    """Return the recipe's network name.

    Raises:
        CoterieError: there is none.
    """
    name = network_of(recipe).name
    if name is None:
        raise CoterieError(f"network=null: expected {TINY}, a folder of diffusers, or a name of the Hub")
    return TINY if name == AUTO else str(name)


def display_name(recipe: Recipe) -> str:
    """Return the last part of a folder's path, or the name."""
    name = network_name(recipe)
    return Path(name).name if Path(name).expanduser().is_dir() else name


def find_generator(recipe: Recipe) -> OneStepGenerator:
    """Load the network to train.

    Raises:
        CoterieError: it cannot be loaded, or the size of the squares does not fit its levels.
    """
    network, data, name = network_of(recipe), data_of(recipe), network_name(recipe)
    latents = find_latents(network.autoencoder, name, network.unshuffle)
    diffusion = find_diffusion(
        name,
        latents.channels,
        network.options,
        bool(resolved(network.pretrained)),
        derive_seed(recipe.seed, "student", 0),
    )
    generator = OneStepGenerator.of(
        diffusion,
        latents,
        scale=data.scale,
        timestep=resolved(network.timestep),
        learn_embedding=network.learn_embedding,
    )
    if data.crop % generator.multiple:
        raise CoterieError(
            f"data.crop={data.crop}: expected a multiple of {generator.multiple}, which the levels of {name!r} need"
        )
    rank = resolved(network.lora.rank)
    if rank is not None:
        add_lora(generator.unet, rank=rank, alpha=network.lora.alpha, targets=network.lora.targets, seed=recipe.seed)
    if network.gradient_checkpointing:
        generator.unet.enable_gradient_checkpointing()  # type: ignore[operator]
    return generator


def require_restorer(recipe: Recipe) -> type[Restorer]:
    """Return the class of the recipe's method.

    Raises:
        CoterieError: it is for other tasks.
    """
    name = recipe.method.name
    found = find_method(name)
    if not issubclass(found, Restorer):
        own = [
            each
            for each, entry in TABLE.items()
            if entry.location.startswith(f"{Restorer.__module__.rpartition('.')[0]}.")
        ]
        raise CoterieError(f"method={name} is not for task={recipe.task}; expected {', '.join(own)}")
    return found


def make_method(recipe: Recipe, generator: OneStepGenerator, **instead: Any) -> Restorer:
    """Build the recipe's method.

    Args:
        recipe: its ``method`` and ``seed`` are read.
        generator: the network to train.
        instead: options that replace the recipe's, of which those that have no effect beside them are left out.

    Raises:
        CoterieError: the method is for other tasks, or does not accept the options.
    """
    kind = require_restorer(recipe)
    with seeded(derive_seed(recipe.seed, "method")):
        options = check_options(kind, {**recipe.method.options, **instead}, unused="drop")
        method: Restorer = kind(generator, **{**options, **instead})
    return method


def rebuild_method(recipe: Recipe, description: dict[str, Any]) -> Restorer:
    """Build a finished run's method without its weights. Its initial weights are not needed."""
    generator = build_generator(description["generator"])
    generator.pretrained = True  # has no effect, since the weights are replaced
    return make_method(recipe, generator, **description["method_options"])
