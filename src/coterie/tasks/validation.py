"""Refuses settings that need a validation split before the data are read, if the data clearly have none."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from coterie.data.split_names import split_of
from coterie.errors import CoterieError
from coterie.recipe import Recipe

MOST_ENTRIES = 2000  # entries of a folder that are checked


def require_validation(recipe: Recipe) -> None:
    """Refuse settings that need a validation split if ``data.validation=0`` and the data have none.

    For a folder, this is decided from the names in it. Other cases are left to the task, which reads the data.

    Raises:
        CoterieError: ``training.select=best``, ``training.patience`` or ``training.evaluate_test=false`` without a validation split.
    """
    training = recipe.training
    if recipe.data.validation > 0 or _may_bring_validation(recipe):
        return
    if not training.evaluate_test:
        raise CoterieError(
            f"training.evaluate_test=false leaves nothing to measure: {recipe.data.name!r} has no validation split here; set data.validation"
        )
    wanting = {"training.patience": training.patience is not None, "training.select=best": training.select == "best"}
    for what, wanted in wanting.items():
        if wanted:
            raise CoterieError(f"{what} needs a validation split, and there is none; set data.validation")


def _may_bring_validation(recipe: Recipe) -> bool:
    data = recipe.data
    if data.name in data.names:
        return data.name in data.names_with_validation or getattr(data, "root", None) is not None
    place = Path(data.name).expanduser()
    if place.is_file():
        return data.files_have_splits
    if not place.is_dir():  # data of the Hub, or objects
        return True
    names = list(islice(_names_in(place), MOST_ENTRIES))
    found = {split_of(Path(name).stem) for name in names}
    measures = "test" not in found and data.test == "auto"  # a lone validation split is the test split
    return len(names) == MOST_ENTRIES or ("validation" in found and not measures)


def _names_in(folder: Path) -> Iterator[str]:
    """Yields the names in a folder, then those in its subfolders."""
    try:
        below = sorted(folder.iterdir())
        yield from (each.name for each in below)
        yield from (each.name for path in below if path.is_dir() for each in path.iterdir())
    except OSError:  # the task reports the error
        return
