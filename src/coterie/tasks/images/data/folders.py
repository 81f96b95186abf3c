"""Folders of images: their classes, splits and ignored files. ``scan`` checks the images themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coterie.data.splits import assign_held_out
from coterie.errors import CoterieError
from coterie.tasks.images.data.layout import Found, Walk, counted, find_splits, loose_images, sub_folders
from coterie.tasks.images.data.raw import Files, RawData
from coterie.tasks.images.data.scan import check_images
from coterie.tasks.images.settings import ImageData


def read_folder(root: Path, recipe: ImageData, whole: bool = False) -> RawData:
    """Reads class folders under ``train/`` and, if they exist, ``val/`` and ``test/``; or class folders alone.

    :func:`coterie.data.splits.assign_held_out` describes how missing splits are filled. Ignored files (except hidden ones) are
    counted in the result's notes.

    Args:
        root: the folder.
        recipe: settings for broken images and for classes that lack images.
        whole: evaluate the images without training: a folder without splits is the test split as a whole, and ``test/`` alone is enough.

    Raises:
        CoterieError: the folder does not exist, has no images or one class only, classes differ between splits, or files cannot be read.
    """
    if not root.is_dir():
        raise CoterieError(f"{str(root)!r} is not a folder" if root.exists() else f"there is no folder {str(root)!r}")
    folders, left_out = find_splits(root)
    if "train" not in folders and not whole:
        raise CoterieError(f"{str(root)!r} holds {next(iter(folders.values())).name}/ but no train/")
    if whole:
        chosen = next(split for split in ("test", "validation", "train") if split in folders)
        folders = {chosen: folders[chosen]}
    top = next(iter(folders.values())) if whole else folders["train"]
    classes = _class_names(top)
    if len(classes) == 1 and not whole:
        inside = ", ".join(each.name for each in sub_folders(top / classes[0])[:3])
        raise CoterieError(
            f"{str(top)!r} holds one class, {classes[0]!r}: expected at least two sub-folders with images"
            + (f"; did you mean {str(top / classes[0])!r} ({inside})?" if "," in inside else "")
        )
    parts, passed_over, notes = _read_parts(root, folders, classes, recipe)
    notes += [
        f"left out, since {'they are no splits' if len(left_out) > 1 else 'it is no split'}: {', '.join(left_out)}"
    ] * bool(left_out)
    parts, bad, found = check_images(parts, recipe)
    notes += found
    if recipe.incomplete_classes == "refuse" and not whole:
        for split, part in parts.items():
            _require_all_classes(part, classes, folders[split])
    for split, part in parts.items():
        if not len(part):
            raise CoterieError(f"{str(folders[split])!r} holds no images that can be read")
    name = root.resolve().name
    if whole:
        (part,) = parts.values()
        return RawData(name, tuple(classes), part, None, part, skipped=bad, passed_over=passed_over, notes=tuple(notes))
    splits = assign_held_out(
        parts["train"],
        parts.get("validation"),
        parts.get("test"),
        recipe,
        classes,
    )
    return RawData(name, tuple(classes), *splits, skipped=bad, passed_over=passed_over, notes=tuple(notes))


def _class_names(folder: Path) -> list[str]:
    names = [each.name for each in sub_folders(folder)]
    if not names:
        raise CoterieError(
            f"{str(folder)!r} holds no class folders: expected one sub-folder with images for each class"
        )
    return names


def _read_parts(
    root: Path, folders: dict[str, Path], classes: list[str], recipe: ImageData
) -> tuple[dict[str, Files], int, list[str]]:
    """Returns each split's files, the number of ignored files, and notes about them."""
    parts: dict[str, Files] = {}
    others: Counter[str] = Counter()
    repeated = 0
    top = next(iter(folders.values()))
    walk = Walk(root, folders.values())
    for split, folder in folders.items():
        names = classes if folder == top else _class_names(folder)
        _require_same_classes(classes, names, top, folder, recipe.incomplete_classes == "accept")
        found = Found()
        counts = [walk.images(folder / name, found) if name in names else 0 for name in classes]
        if not any(counts):
            met = f", only {counted(found.others)}" if found.others else ""
            raise CoterieError(f"{str(folder)!r} holds no images{met}: expected files such as {classes[0]}/1.jpg")
        parts[split] = Files(found.files.paths(), np.repeat(np.arange(len(classes), dtype=np.int64), counts))
        others += found.others
        repeated += found.repeated
    notes = [f"passed over what is no picture of a format that is read: {counted(others)}"] if others else []
    loose = sum(loose_images(folder) for folder in folders.values())
    if loose:
        notes.append(f"passed over {loose} image{'s' * (loose > 1)} outside of the class folders")
    if repeated:
        notes.append(f"left out {repeated} linked folder{'s' * (repeated > 1)} whose images were read before")
    return parts, sum(others.values()) + loose, notes


def _require_same_classes(
    expected: Sequence[str], found: Sequence[str], train: Path, folder: Path, incomplete: bool
) -> None:
    for missing, place in ((set(expected) - set(found), folder), (set(found) - set(expected), train)):
        if missing and not (incomplete and place == folder):
            way_out = "; data.incomplete_classes=accept does without" if place == folder else ""
            raise CoterieError(
                f"{str(place)!r} lacks the class {min(missing)!r}: train and {folder.name} need the same sub-folders{way_out}"
            )


def _require_all_classes(files: Files, classes: Sequence[str], folder: Path) -> None:
    present = set(files.labels.tolist())
    empty = [name for label, name in enumerate(classes) if label not in present]
    if empty:
        raise CoterieError(
            f"the class {empty[0]!r} in {str(folder)!r} holds no images that can be read; remove its folder, or set data.incomplete_classes=accept"
        )
