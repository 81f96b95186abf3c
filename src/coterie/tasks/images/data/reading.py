"""The images of a run before they are prepared: read, checked, split, looked over for duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from coterie.data.splits import carve, lacking_notes, limit
from coterie.tasks.images.data.decoding import open_image
from coterie.tasks.images.data.duplicates import find_duplicates
from coterie.tasks.images.data.objects import from_objects
from coterie.tasks.images.data.raw import Arrays, Files, Objects, RawData, Samples, require_consistent, with_classes
from coterie.tasks.images.data.sources import read_source
from coterie.tasks.images.settings import ImageData

LOOKED_AT = 100  # images whose sizes stand for all
SMALL = 64  # pixels a side up to which images are kept in memory


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
    with samples.stored.open(number) as file:
        image = open_image(file)
        return image.height, image.width


def asked_size(recipe: ImageData) -> int | None:
    """The side in pixels that the recipe asks for; None: it leaves it open."""
    return recipe.image_size if isinstance(recipe.image_size, int) else None


def is_kept_in_memory(raw: RawData, recipe: ImageData) -> bool:
    """Whether the pixels stay in memory, see ``data.in_memory``."""
    return not reads_differently(raw) and _keep_in_memory(raw.train, recipe)


def reads_differently(raw: RawData) -> bool:
    """Whether a data set of the user's gives other pixels each time that it is read."""
    return any(isinstance(samples, Objects) and samples.varies for samples in raw.splits().values())


def small_side(train: Samples) -> int | None:
    """The side of small square images; None: they are larger, or not square."""
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
    sizes = {size_of(train, number) for number in range(0, len(train), -(-len(train) // LOOKED_AT))}
    height, width = next(iter(sizes))
    return len(sizes) == 1 and height == width <= SMALL
