"""The images of a run before they are prepared: read, checked, split, looked over for duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from coterie.data.splits import carve, lacking_notes, limit
from coterie.tasks.images.data.decoding import image_size
from coterie.tasks.images.data.duplicates import find_duplicates
from coterie.tasks.images.data.objects import from_objects
from coterie.tasks.images.data.raw import Arrays, Files, Objects, RawData, require_consistent, with_classes
from coterie.tasks.images.data.sources import read_source
from coterie.tasks.images.settings import ImageData

LOOKED_AT = 100  # images whose sizes stand for all


def read_data(recipe: ImageData, datasets: Any = None, measured: Sequence[str] | None = None) -> RawData:
    """Read and split the data of a run.

    Args:
        recipe: which data, and how they are split.
        datasets: (train, validation, test) in place of ``recipe.name``.
        measured: the data are to be measured and not trained on, by networks of these classes: what has no splits is measured in whole.

    Raises:
        CoterieError: data that cannot be read, or too few of them.
    """
    if measured is not None:
        recipe = recipe.model_copy(update={"test": "auto"})  # what is measured in whole is not split
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
    """Carve the validation split where there is none, then limit what is left to train on; note what stands in two splits."""
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
    """The median of the images' shorter sides in pixels, of up to a hundred of them."""
    train = raw.train
    if isinstance(train, Arrays):
        return min(train.images.shape[1:3])
    return round(median(min(size_of(train, number)) for number in range(0, len(train), -(-len(train) // LOOKED_AT))))


def size_of(samples: Files | Objects, number: int) -> tuple[int, int]:
    """Height and width of one image; of a file, only the header is read."""
    if isinstance(samples, Objects):
        height, width = samples.pixels(number).shape[:2]
        return height, width
    return image_size(samples.paths[number])
