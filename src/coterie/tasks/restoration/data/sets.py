"""Splits of images, and the squares that images are cut into."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coterie.data.cache import fingerprint, remembered
from coterie.data.split_names import SPLITS, splits_by_name
from coterie.errors import CoterieError
from coterie.randomness import derive_seed
from coterie.tasks.restoration.data.pictures import Picture, embedded, read_size
from coterie.tasks.restoration.settings import RestorationData

TEST_SHARE = 0.2  # if the data have neither a validation nor a test split
WHOLE = 4  # number of images below which strips are held out instead of images


@dataclass(frozen=True)
class Square:
    """Position of a square of ``crop`` pixels: the index of its image, and its upper left corner on a grid."""

    picture: int
    top: int
    left: int


@dataclass(frozen=True)
class RestorationSets:
    """Attributes:
    name: name of the data.
    pictures: images by split.
    squares: squares of the training split, and of splits that are evaluated in tiles.
    skipped: number of files that are not images, or too small to crop.
    notes: notes for the user, in sentences.
    """

    name: str
    pictures: dict[str, list[Picture]]
    squares: dict[str, list[Square]]
    skipped: int = 0
    notes: tuple[str, ...] = ()


def load_sets(recipe: RestorationData, whole: bool = False) -> RestorationSets:
    """Find the images, and split them.

    Args:
        recipe: the section ``data``.
        whole: use data without splits as the test split, as a whole.

    Raises:
        CoterieError: there are no such data or no images, or a split cannot be held out.
    """
    recipe.require_place()
    skipped, notes = 0, []
    if recipe.name in ("photos", "more_photos"):
        found = embedded(recipe.name)
    else:
        found, skipped = _from_folder(recipe)
    small = sum(not _fits(each, recipe.crop) for several in found.values() for each in several)
    found = {split: [each for each in several if _fits(each, recipe.crop)] for split, several in found.items()}
    found = {split: several for split, several in found.items() if several}
    if small:
        notes.append(f"{small:,} images are smaller than data.crop={recipe.crop}: left out")
    if not found:
        raise CoterieError(f"data={recipe.name!r} holds no image of at least {recipe.crop}x{recipe.crop} pixels")
    if whole and set(found) == {"train"}:
        found = {"train": found["train"], "test": found["train"]}
    else:
        found = _split(found, recipe)
    squares = {split: _squares(pictures, recipe.crop) for split, pictures in found.items()}
    if not squares.get("train"):
        raise CoterieError(f"data={recipe.name!r} leaves no training square of {recipe.crop}x{recipe.crop} pixels")
    if recipe.train_limit is not None:
        squares["train"] = _limited(squares["train"], recipe.train_limit, recipe.validation_seed)
    return RestorationSets(recipe.name, found, squares, skipped + small, tuple(notes))


def _fits(picture: Picture, crop: int) -> bool:
    return min(picture.height, picture.width) >= crop


def _from_folder(recipe: RestorationData) -> tuple[dict[str, list[Picture]], int]:
    """Return the images by split, and the number of other files."""
    root = Path(recipe.name).expanduser()
    folders = [each.name for each in sorted(root.iterdir()) if each.is_dir() and not each.name.startswith(".")]
    named = splits_by_name(folders, str(root))
    places = {split: root / named[split] for split in SPLITS if split in named} or {"train": root}
    if "train" not in places:
        raise CoterieError(f"{str(root)!r} has {', '.join(named.values())} and no training split")
    extensions = {each for each, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found: dict[str, list[Picture]] = {}
    skipped = 0
    for split, place in places.items():
        paths = sorted(
            Path(folder, name)
            for folder, _, names in os.walk(place)
            for name in names
            if Path(name).suffix.lower() in extensions and not name.startswith(".")
        )
        sizes = _sizes(paths)
        skipped += sum(each is None for each in sizes)
        readable = [(path, size) for path, size in zip(paths, sizes, strict=True) if size is not None]
        pictures = [Picture(path.relative_to(place).as_posix(), path, *size) for path, size in readable]
        if recipe.low is not None:
            pictures = _with_low(pictures, Path(recipe.low).expanduser() / place.relative_to(root), recipe.scale)
        if pictures:
            found[split] = pictures
    return found, skipped


def _sizes(paths: Sequence[Path]) -> list[tuple[int, int] | None]:
    """Return height and width of each file; None if it is not an image. Headers are read only once."""
    read = remembered("upright_sizes", fingerprint(paths, "upright sizes"), lambda: [read_size(path) for path in paths])
    return [tuple(each) if each is not None else None for each in read]


def _with_low(pictures: Sequence[Picture], folder: Path, scale: int) -> list[Picture]:
    """Pair each image with its small image, by the file's name without its ending.

    Raises:
        CoterieError: one is missing, or has another size.
    """
    files = {each.relative_to(folder).with_suffix("").as_posix(): each for each in folder.rglob("*") if each.is_file()}
    found = []
    for picture in pictures:
        path = files.get(Path(picture.name).with_suffix("").as_posix())
        if path is None:
            raise CoterieError(f"data.low has no small image of {picture.name!r} in {str(folder)!r}")
        size = read_size(path)
        if size != (picture.height // scale, picture.width // scale):
            shown = "no image" if size is None else f"{size[0]}x{size[1]} pixels"
            raise CoterieError(
                f"{str(path)!r}: {shown}, expected {picture.height // scale}x{picture.width // scale}, "
                f"a {scale}th of {picture.name!r} (data.scale)"
            )
        found.append(replace(picture, low=path, scale=scale))
    return found


def _split(found: dict[str, list[Picture]], recipe: RestorationData) -> dict[str, list[Picture]]:
    """Return training, validation and test images. A single validation split becomes the test split, since nothing may be chosen on the reported split.

    Raises:
        CoterieError: the data have a test split and another one is requested.
    """
    found = dict(found)
    share = recipe.test
    if "test" in found and share not in ("auto", 0):
        raise CoterieError(
            f"data.test={share:g}: the data bring a test split of {len(found['test']):,} images; leave data.test out"
        )
    if share == "auto" and "test" not in found:
        if "validation" in found:
            found["test"] = found.pop("validation")
        else:
            share = TEST_SHARE
    if share not in ("auto", 0):
        found["train"], found["test"] = _hold_out(found["train"], float(share), recipe, "test")
    if "validation" not in found and recipe.validation:
        found["train"], found["validation"] = _hold_out(found["train"], recipe.validation, recipe, "validation")
    return {split: found[split] for split in SPLITS if found.get(split)}


def _hold_out(
    pictures: list[Picture], share: float, recipe: RestorationData, what: str
) -> tuple[list[Picture], list[Picture]]:
    """Divide into two parts: whole images if there are at least four, otherwise strips at the right of each image, at least as wide as a square.

    Raises:
        CoterieError: an image is too narrow for both.
    """
    if len(pictures) >= WHOLE:
        order = np.random.default_rng(derive_seed(recipe.validation_seed, what)).permutation(len(pictures))
        count = min(len(pictures) - 1, max(1, round(share * len(pictures))))
        chosen = set(order[:count].tolist())
        return (
            [each for number, each in enumerate(pictures) if number not in chosen],
            [each for number, each in enumerate(pictures) if number in chosen],
        )
    rest, held = [], []
    for picture in pictures:
        width = max(recipe.crop, round(share * picture.width)) // recipe.scale * recipe.scale
        border = (picture.width - width) // recipe.scale * recipe.scale  # aligned with the pixels of the small image
        if border < recipe.crop:
            raise CoterieError(
                f"{picture.name!r} is {picture.width} pixels wide: too narrow for a {what} strip beside a square of data.crop={recipe.crop}; "
                f"lower it, add images, or set data.{what}=0"
            )
        rest.append(picture.strip(0, border))
        held.append(picture.strip(border, border + width))
    return rest, held


def _squares(pictures: Sequence[Picture], crop: int) -> list[Square]:
    """Return adjacent squares; the remainder at the right and at the bottom is not used."""
    return [
        Square(number, top, left)
        for number, picture in enumerate(pictures)
        for top in range(0, picture.height - crop + 1, crop)
        for left in range(0, picture.width - crop + 1, crop)
    ]


def _limited(squares: list[Square], count: int, seed: int) -> list[Square]:
    if count > len(squares):
        raise CoterieError(f"data.train_limit={count} is above the number of training squares, {len(squares)}")
    chosen = np.random.default_rng(derive_seed(seed, "limit")).permutation(len(squares))[:count]
    return [squares[number] for number in sorted(chosen.tolist())]


def describe(sets: RestorationSets) -> dict[str, Any]:
    """Return what identifies the data, see :func:`coterie.data.fingerprint.fingerprint`: names, sizes and bytes of files, pixels in memory."""
    splits = {}
    for split, pictures in sets.pictures.items():
        digest = hashlib.blake2b(digest_size=8)
        for picture in pictures:
            part = (picture.name, picture.height, picture.width, picture.left, picture.scale)
            digest.update(repr(part).encode())
            for source in (picture.source, picture.low):
                if isinstance(source, Path):
                    digest.update(str(source.stat().st_size).encode())
                elif source is not None:
                    digest.update(source.tobytes())
        splits[split] = {"samples": len(sets.squares[split]), "order": digest.hexdigest(), "classes": {}}
    return {"classes": [], "preparation": {}, "splits": splits}
