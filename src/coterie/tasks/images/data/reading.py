"""Reads the images of a run, checks them, splits them and searches them for duplicates, before preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from coterie.data.decoding import open_image
from coterie.data.splits import carve, lacking_notes, limit
from coterie.tasks.images.data.duplicates import find_duplicates
from coterie.tasks.images.data.objects import from_objects
from coterie.tasks.images.data.raw import (
    Arrays,
    Files,
    Objects,
    RawData,
    Samples,
    require_consistent,
    sample_numbers,
    with_classes,
)
from coterie.tasks.images.data.sources import read_source
from coterie.tasks.images.settings import ImageData

LOOKED_AT = 100  # images whose sizes are sampled
SMALL = 64  # maximum side in pixels of images that are kept in memory


def read_data(recipe: ImageData, datasets: Any = None, measured: Sequence[str] | None = None) -> RawData:
    """Read and split the data of a run.

    Args:
        recipe: the data and settings of their splits.
        datasets: (train, validation, test) instead of ``recipe.name``.
        measured: class names of the networks to evaluate, for an evaluation without training: data without splits are then evaluated whole.

    Raises:
        CoterieError: the data cannot be read, or are too few.
    """
    if measured is not None:
        recipe = recipe.model_copy(update={"test": "auto"})  # no split is carved from data that are evaluated whole
    raw = from_objects(datasets, recipe) if datasets is not None else read_source(recipe, measured is not None)
    if measured is not None:
        raw = with_classes(raw, measured)
    require_consistent(raw, recipe.incomplete_classes == "accept" or measured is not None)
    if measured is None:
        return _split(raw, recipe)
    if raw.test is not None:
        return replace(raw, notes=(*raw.notes, *lacking_notes({"test": raw.test}, raw.class_names)))
    return raw


def _split(raw: RawData, recipe: ImageData) -> RawData:
    """Carve the validation split if there is none, then limit the training samples; records duplicates between splits."""
    train, validation = raw.train, raw.validation
    if validation is None and recipe.validation > 0:
        incomplete = recipe.incomplete_classes == "accept"
        train, validation = carve(
            train, recipe.validation, recipe.validation_seed, "validation", raw.class_names, incomplete
        )
    if recipe.train_limit is not None:
        train = limit(train, recipe.train_limit, recipe.validation_seed)
    split = replace(raw, train=train, validation=validation)
    splits = split.splits()
    counts, found = find_duplicates(splits)
    return replace(split, duplicates=counts, notes=(*raw.notes, *found, *lacking_notes(splits, raw.class_names)))


def typical_side(raw: RawData) -> int:
    """Returns the median of the images' shorter sides in pixels, over up to a hundred of them."""
    train = raw.train
    if isinstance(train, Arrays):
        return min(train.images.shape[1:3])
    return round(median(min(size_of(train, number)) for number in sample_numbers(train, LOOKED_AT)))


def size_of(samples: Files | Objects, number: int) -> tuple[int, int]:
    """Returns height and width of an image; for a file, only the header is read."""
    if isinstance(samples, Objects):
        height, width = samples.pixels(number).shape[:2]
        return height, width
    with samples.stored.open(number) as file:
        image = open_image(file)
        return image.height, image.width


def asked_size(recipe: ImageData) -> int | None:
    """Returns the side in pixels that the recipe sets; None if it sets none."""
    return recipe.image_size if isinstance(recipe.image_size, int) else None


def is_kept_in_memory(raw: RawData, recipe: ImageData) -> bool:
    """Whether the pixels are kept in memory, see ``data.in_memory``."""
    return not reads_differently(raw) and _keep_in_memory(raw.train, recipe)


def reads_differently(raw: RawData) -> bool:
    """Whether readings of a custom data set differ, see :attr:`Objects.varies`."""
    return any(isinstance(samples, Objects) and samples.varies for samples in raw.splits().values())


def small_side(train: Samples) -> int | None:
    """Returns the side of small square images; None if they are larger or not square."""
    height, width = train.pixels(0).shape[:2]
    return height if height == width <= SMALL else None


def _keep_in_memory(train: Samples, recipe: ImageData) -> bool:
    if recipe.in_memory is not None:
        return recipe.in_memory
    asked = asked_size(recipe)
    if asked is not None and asked <= SMALL:
        return True
    if isinstance(train, Arrays):
        return max(train.images.shape[1:3]) <= SMALL
    sizes = {size_of(train, number) for number in sample_numbers(train, LOOKED_AT)}
    height, width = next(iter(sizes))
    return len(sizes) == 1 and height == width <= SMALL
