"""Folders of images: their classes and splits, whether every file can be decoded, and which pictures are the same."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from coterie.data.cache import fingerprint, remembered
from coterie.data.decoding import deep_peak, image_size, largest_image, read_image, reason_of
from coterie.data.layout import Found, counted, find_images, find_splits, loose_images, sub_folders
from coterie.data.raw import Files, RawData
from coterie.data.splits import assign_held_out
from coterie.errors import CoterieError
from coterie.sections import DataRecipe

DECODE_AT_MOST = 20_000  # files; beyond that only headers are read
TWELVE_BITS = 4_095


def read_folder(root: Path, recipe: DataRecipe, whole: bool = False) -> RawData:
    """Class folders under ``train/`` and, where they exist, ``val/`` and ``test/``; or class folders alone.

    What becomes of missing splits is said in :func:`coterie.data.splits.assign_held_out`. What is passed over (hidden files apart) is
    counted in the result's notes.

    Args:
        root: the folder.
        recipe: what to do with broken images and with classes that lack some.
        whole: the images are to be measured, not trained on: all of a folder without splits is the test split, and ``test/`` alone will do.

    Raises:
        CoterieError: no such folder, no images, one class only, classes that differ between splits, files that cannot be read.
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
        raise CoterieError(
            f"{str(top)!r} holds one class, {classes[0]!r}: expected at least two sub-folders with images"
        )
    parts, notes = _read_parts(folders, classes, recipe)
    notes += [
        f"left out, since {'they are no splits' if len(left_out) > 1 else 'it is no split'}: {', '.join(left_out)}"
    ] * bool(left_out)
    parts, bad = _scan(parts, recipe)
    if bad:
        notes.append(f"left out {bad} image{'s' * (bad > 1)} that cannot be decoded (data.skip_bad_images)")
    if recipe.incomplete_classes == "refuse" and not whole:
        for split, part in parts.items():
            _require_all_classes(part, classes, folders[split])
    for split, part in parts.items():
        if not len(part):
            raise CoterieError(f"{str(folders[split])!r} holds no images that can be read")
    name = root.resolve().name
    if whole:
        (part,) = parts.values()
        return RawData(name, tuple(classes), part, None, part, skipped=bad, notes=tuple(notes))
    splits = assign_held_out(
        parts["train"],
        parts.get("validation"),
        parts.get("test"),
        recipe.validation_seed,
        classes,
        recipe.incomplete_classes == "accept",
    )
    return RawData(name, tuple(classes), *splits, skipped=bad, notes=tuple(notes))


def _class_names(folder: Path) -> list[str]:
    names = [each.name for each in sub_folders(folder)]
    if not names:
        raise CoterieError(
            f"{str(folder)!r} holds no class folders: expected one sub-folder with images for each class"
        )
    return names


def _read_parts(folders: dict[str, Path], classes: list[str], recipe: DataRecipe) -> tuple[dict[str, Files], list[str]]:
    """Each split's files, and what was passed over."""
    parts: dict[str, Files] = {}
    others: Counter[str] = Counter()
    repeated = 0
    top = next(iter(folders.values()))
    for split, folder in folders.items():
        names = classes if folder == top else _class_names(folder)
        _require_same_classes(classes, names, top, folder, recipe.incomplete_classes == "accept")
        seen: set[tuple[int, int]] = set()
        found = {name: find_images(folder / name, seen) for name in names}
        parts[split] = _files(folder, classes, found)
        for each in found.values():
            others += each.others
            repeated += each.repeated
    notes = [f"passed over what is no picture of a format that is read: {counted(others)}"] if others else []
    loose = sum(loose_images(folder) for folder in folders.values())
    if loose:
        notes.append(f"passed over {loose} image{'s' * (loose > 1)} outside of the class folders")
    if repeated:
        notes.append(f"left out {repeated} linked folder{'s' * (repeated > 1)} whose images were read before")
    return parts, notes


def _files(folder: Path, classes: Sequence[str], found: dict[str, Found]) -> Files:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if name in found:
            paths += found[name].paths
            labels += [label] * len(found[name].paths)
    if not paths:
        others: Counter[str] = Counter()
        for each in found.values():
            others += each.others
        met = f", only {counted(others)}" if others else ""
        raise CoterieError(f"{str(folder)!r} holds no images{met}: expected files such as {classes[0]}/1.jpg")
    return Files(tuple(paths), np.array(labels, dtype=np.int64))


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


def _scan(parts: dict[str, Files], recipe: DataRecipe) -> tuple[dict[str, Files], int]:
    """The files that can be decoded, with digests of their pixels, and how many cannot.

    Raises:
        CoterieError: some cannot, and the recipe does not leave them out; or 16-bit pictures that use a few of their bits only.
    """
    paths = [path for part in parts.values() for path in part.paths]
    results = _looks(paths)
    bad = [(path, reason) for path, (reason, _, _) in zip(paths, results, strict=True) if reason]
    if bad and not recipe.skip_bad_images:
        (path, reason), more = bad[0], f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise CoterieError(
            f"cannot decode {str(path)!r}{more}: {reason}\nrepair or remove, or leave out with data.skip_bad_images=true"
        )
    peaks = [peak for _, _, peak in results if peak is not None]
    if peaks and max(peaks) <= TWELVE_BITS:
        raise CoterieError(
            f"the 16-bit images in {str(paths[0].parent)!r} hold values up to {max(peaks)} of 65,535, and would be nearly black: convert them to 8 bits"
        )
    scanned: dict[str, Files] = {}
    start = 0
    for split, part in parts.items():
        own = results[start : start + len(part)]
        start += len(part)
        keep = np.array([number for number, (reason, _, _) in enumerate(own) if not reason], dtype=np.int64)
        digests = None
        if all(digest is not None for reason, digest, _ in own if not reason):
            digests = np.array([digest or 0 for _, digest, _ in own], dtype=np.uint64)
        scanned[split] = Files(part.paths, part.labels, digests).take(keep)
    return scanned, len(bad)


Look = tuple[str, int | None, int | None]  # why it cannot be decoded or "", digest of the pixels, peak of 16-bit values


def _looks(paths: Sequence[Path]) -> list[Look]:
    """One look at every file. It is kept for files whose size and time of change stay the same."""
    whole = len(paths) <= DECODE_AT_MOST

    def scan() -> list[Any]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda path: _look(path, whole), paths))

    key = fingerprint(paths, f"look 1, decode={whole}, pixels={largest_image()}")
    return [(reason, digest, peak) for reason, digest, peak in remembered("scans", key, scan)]


def _look(path: Path, whole: bool) -> Look:
    """Whether a file can be decoded.

    Raises:
        CoterieError: the file may not be read, which is no damage of the image.
    """
    try:
        if not whole:
            image_size(path)
            return "", None, None
        image = read_image(path)
        digest = hashlib.blake2b(f"{image.size}".encode() + image.tobytes(), digest_size=8).digest()
        return "", int.from_bytes(digest, "little"), deep_peak(path) if path.suffix.lower() in DEEP_SUFFIXES else None
    except PermissionError as error:
        raise CoterieError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except Exception as error:  # decoders raise what they like on broken files
        return reason_of(error, path), None, None


DEEP_SUFFIXES = {".png", ".apng", ".pgm", ".pnm", ".tif", ".tiff"}
