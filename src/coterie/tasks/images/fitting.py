"""Resolves ``auto`` settings for images: network, pretrained weights, image size and crops; ``coterie.recipe.fitting`` resolves the others."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from coterie.networks.branching import NetworkSource
from coterie.networks.creation import create_network
from coterie.recipe import Recipe
from coterie.recipe.fitting import Facts, fit, with_settings
from coterie.recipe.sections import AUTO
from coterie.tasks.images.data.catalogue import DATA
from coterie.tasks.images.data.raw import RawData
from coterie.tasks.images.data.reading import is_kept_in_memory, typical_side
from coterie.tasks.images.family import family_of
from coterie.tasks.images.networks import network_names, network_options
from coterie.tasks.images.pretrained import why_not_at_hand
from coterie.tasks.images.settings import data_of, network_of

SMALL_SIDE = 48  # maximum side in pixels of images that count as small, like CIFAR's
CIFAR_SIDE = 32
# The network for each size of images if the recipe names none. Known data sets such as digits and CIFAR are for quick trials.
FOR_TRYING, FOR_SMALL, FOR_OTHERS = "tiny_cifar", "resnet20_cifar", "mobilenetv4_conv_small"
LEAST_SIDE, FINE_TUNED_SIDE, MOST_SIDE = 64, 128, 224  # for timm's networks, which downsample by 32
STEP = 32  # sizes are multiples of it
# Below this number of images, random crops cover at least this share of the area. timm's 0.08 is for ImageNet with many epochs. Our choice.
MANY_IMAGES, FEW_CROP_SCALE = 20_000, 0.35


def fit_images(
    recipe: Recipe, raw: RawData, accelerator: Accelerator, network: NetworkSource | None
) -> tuple[Recipe, dict[str, str]]:
    """Returns the recipe with every ``auto`` resolved that depends on images or networks, and the reason of each choice.

    Args:
        recipe: the recipe; its explicit settings are kept.
        raw: its data, read and split.
        accelerator: used so that all processes make the same choice, even if they differ in network access.
        network: a custom network instead of the recipe's.

    Raises:
        CoterieError: a network is unknown, or no learning rate is known for the optimizer.
    """
    chosen: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    side = typical_side(raw)
    own = recipe.data.name not in DATA
    if network is None and recipe.network.name == AUTO:
        name = (FOR_SMALL if side <= SMALL_SIDE else FOR_OTHERS) if own else FOR_TRYING
        chosen["network.name"], reasons["network.name"] = name, f"images of {side} pixels"
        recipe = with_settings(recipe, {"network.name": name})
    if recipe.network.pretrained == AUTO:
        missing = _missing(recipe, own and network is None, accelerator)
        chosen["network.pretrained"], reasons["network.pretrained"] = missing is None, missing or "timm has the weights"
        recipe = with_settings(recipe, {"network.pretrained": missing is None})
    start = bool(recipe.network.pretrained) or network_of(recipe).weights is not None
    example = _example(recipe, network, (raw.train.channels, MOST_SIDE, MOST_SIDE))
    family = family_of(example)
    if data_of(recipe).image_size == AUTO:
        size, reason = _size(example, family == "CIFAR network", bool(recipe.network.pretrained), side)
        if network is not None:
            size, reason = None, "a network of your own takes the images as they are"
        chosen["data.image_size"], reasons["data.image_size"] = size, reason
    if data_of(recipe).crop_scale == AUTO:
        streamed = not is_kept_in_memory(raw, data_of(with_settings(recipe, chosen)))
        few = streamed and len(raw.train) < MANY_IMAGES
        chosen["data.crop_scale"] = FEW_CROP_SCALE if few else None
        reasons["data.crop_scale"] = f"{len(raw.train):,} images" if streamed else "images in memory"
    fitted, others = fit(with_settings(recipe, chosen), Facts(family, start, len(raw.train)))
    return fitted, reasons | others


def _missing(recipe: Recipe, own_images: bool, accelerator: Accelerator) -> str | None:
    """Returns why no pretrained weights are used; None if they are available. The main process checks, and broadcasts the result."""
    if network_of(recipe).weights is not None:
        return "network.weights are given"
    if not own_images:
        return "a known data set, or a network of your own"
    found: list[str | None] = [None]
    if accelerator.is_main_process:
        found = [next((each for each in map(why_not_at_hand, network_names(recipe)) if each), None)]
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    return found[0]


def _example(recipe: Recipe, network: NetworkSource | None, size: tuple[int, int, int]) -> nn.Module:
    """Returns the first student's network; on the meta device if coterie builds it."""
    if isinstance(network, nn.Module):
        return network
    if network is not None:
        return network()
    name = network_names(recipe)[0]
    with torch.device("meta"):
        return create_network(name, pretrained=False, **network_options(recipe, name, size))


def _size(network: nn.Module, small: bool, pretrained: bool, side: int) -> tuple[int | None, str]:
    """Returns the side in pixels to which images are resized (None: they are not resized), and the reason."""
    if small:
        return (None, "the images' own") if side <= SMALL_SIDE else (CIFAR_SIDE, "a network for small images")
    config: dict[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    if config.get("fixed_input_size") and pretrained:
        return None, "the pretrained network's"
    usual = config.get("input_size", (3, MOST_SIDE, MOST_SIDE))[1]
    least = FINE_TUNED_SIDE if pretrained else LEAST_SIDE
    size = min(max(side // STEP * STEP, least), max(usual if pretrained else MOST_SIDE, least))
    return (None, "the images' own") if size == side <= LEAST_SIDE else (size, f"images of {side} pixels")
