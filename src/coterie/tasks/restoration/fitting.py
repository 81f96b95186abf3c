"""Automatic settings of a restoration run, chosen by its images and networks."""

from __future__ import annotations

from typing import Any

from coterie.errors import CoterieError
from coterie.networks.one_step.unets import TINY
from coterie.recipe import Recipe
from coterie.recipe.fitting import Facts, Family, fit, with_settings
from coterie.recipe.sections import AUTO
from coterie.tasks.restoration.settings import data_of, network_of

PIXELS = 8 * 512**2  # pixels per batch, as in the paper
MOST = 16  # largest batch of small squares
RANK = 16  # the paper's
TIMESTEP = 399  # OSDFace's; the paper does not say
# An untrained network must first learn to leave its input as it is. The smaller the time, the less its error weighs:
# sqrt(1/ᾱ - 1) is 1.2 at 399 and 0.2 at 49. Measured on photographs, see docs/methods/dfosd.md.
UNTRAINED_TIMESTEP = 49


def fit_restoration(recipe: Recipe, samples: int) -> tuple[Recipe, dict[str, str]]:
    """Replace each ``auto`` that depends on data or networks; return the recipe, and the reason for each choice.

    Args:
        recipe: the recipe; values that it sets are kept.
        samples: number of training squares.

    Raises:
        CoterieError: LoRA on a network without pretrained weights.
    """
    chosen: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    network = network_of(recipe)
    if network.name == AUTO:
        chosen["network.name"], reasons["network.name"] = TINY, "a small network, untrained"
    named = network.name not in (AUTO, TINY, None)
    pretrained = network.pretrained
    if pretrained == AUTO:
        pretrained = chosen["network.pretrained"] = named
        reasons["network.pretrained"] = "the weights are there" if named else "a small network, untrained"
    rank = network.lora.rank
    if rank == AUTO:
        whole = not pretrained or recipe.method.name == "denoising"
        rank = None if whole else RANK
        chosen["network.lora"] = {**network.lora.model_dump(), "rank": rank}
        reasons["network.lora.rank"] = "all weights are trained" if whole else "beside weights that are there"
    elif rank is not None and not pretrained:
        raise CoterieError(
            f"network.lora.rank={rank}: LoRA trains little beside frozen weights, and the network starts from nothing; leave it out"
        )
    if network.timestep == AUTO:
        published = pretrained or recipe.method.name == "denoising"
        chosen["network.timestep"] = TIMESTEP if published else UNTRAINED_TIMESTEP
        reasons["network.timestep"] = "the published one" if published else "a network from nothing"
    if recipe.training.batch_size == AUTO:
        crop = data_of(recipe).crop
        chosen["training.batch_size"] = max(1, min(MOST, PIXELS // crop**2, samples))
        reasons["training.batch_size"] = f"{samples:,} squares of {crop} pixels"
    family: Family = "diffusion network" if rank is None else "diffusion network with LoRA"
    fitted, others = fit(with_settings(recipe, chosen), Facts(family, bool(pretrained), samples))
    return fitted, reasons | others
