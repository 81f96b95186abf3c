"""Folders of images: which classes and splits they hold, and whether every file can be decoded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from coterie.data.cache import fingerprint, remembered
from coterie.data.raw import Files, RawData
from coterie.data.splits import assign_held_out
from coterie.errors import CoterieError
from coterie.sections import DataRecipe

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
DECODE_AT_MOST = 20_000  # files; beyond that only headers are read
NAMES = {"train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test", "testing")}


def read_folder(root: Path, recipe: DataRecipe) -> RawData:
    """Class folders under ``train/`` and, where they exist, ``val/`` and ``test/``; or class folders alone.

    What becomes of missing splits is said in :func:`coterie.data.splits.assign_held_out`. Files that are not images by their
    extension, and hidden ones, are passed over.

    Raises:
        CoterieError: no such folder, no images, one class only, classes that differ between splits, files that cannot be read.
    """
    if not root.is_dir():
        raise CoterieError(f"{str(root)!r} is not a folder" if root.exists() else f"there is no folder {str(root)!r}")
    folders = _split_folders(root)
    top = folders["train"]
    classes = _class_names(top)
    if len(classes) == 1:
        raise CoterieError(
            f"{str(top)!r} holds one class, {classes[0]!r}: expected at least two sub-folders with images"
        )
    for folder in folders.values():
        _require_same_classes(classes, _class_names(folder), top, folder)
    parts = {split: _files(folder, classes) for split, folder in folders.items()}
    bad = _undecodable(list(parts.values()))
    if bad and not recipe.skip_bad_images:
        (path, reason), more = bad[0], f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise CoterieError(
            f"cannot decode {path!r}{more}: {reason}\nrepair or remove, or leave out with data.skip_bad_images=true"
        )
    if bad:
        parts = {split: _without(part, {path for path, _ in bad}) for split, part in parts.items()}
    for split, part in parts.items():
        _require_all_classes(part, classes, folders[split])
    train, validation, test = assign_held_out(
        parts["train"], parts.get("validation"), parts.get("test"), recipe.validation_seed, classes
    )
    return RawData(root.resolve().name, tuple(classes), train, validation, test, skipped=len(bad))


def _split_folders(root: Path) -> dict[str, Path]:
    """Split to folder; ``root`` itself is ``train`` where there are class folders alone."""
    found: dict[str, Path] = {}
    for split, names in NAMES.items():
        folder = next((root / name for name in names if (root / name).is_dir()), None)
        if folder is not None:
            found[split] = folder
    if "train" in found:
        return found
    if found and all(name in {each for names in NAMES.values() for each in names} for name in _class_names(root)):
        raise CoterieError(f"{str(root)!r} holds {next(iter(found.values())).name}/ but no train/")
    return {"train": root}


def _class_names(folder: Path) -> list[str]:
    try:
        names = sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    except OSError as error:
        raise CoterieError(f"cannot read {str(folder)!r}: {error.strerror}") from None
    if not names:
        raise CoterieError(
            f"{str(folder)!r} holds no class folders: expected one sub-folder with images for each class"
        )
    return names


def _files(folder: Path, classes: Sequence[str]) -> Files:
    paths: list[Path] = []
    labels: list[int] = []
    others = 0
    for label, name in enumerate(classes):
        files = _all_files(folder / name)
        found = [path for path in files if path.suffix.lower() in EXTENSIONS]
        others += len(files) - len(found)
        paths += found
        labels += [label] * len(found)
    if not paths:
        met = f", only {others} other file{'s' if others > 1 else ''}" if others else ""
        raise CoterieError(f"{str(folder)!r} holds no images{met}: expected files such as {classes[0]}/1.jpg")
    return Files(tuple(paths), np.array(labels, dtype=np.int64))


def _all_files(folder: Path) -> list[Path]:
    """Files below a folder, in a fixed order, links followed, hidden ones left out (macOS writes ``._1.jpg`` beside 1.jpg)."""

    def refuse(error: OSError) -> None:
        raise CoterieError(f"cannot read {error.filename!r}: {error.strerror}")

    found = []
    for parent, _, names in os.walk(folder, followlinks=True, onerror=refuse):
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _require_same_classes(expected: Sequence[str], found: Sequence[str], train: Path, folder: Path) -> None:
    for missing, place in ((set(expected) - set(found), folder), (set(found) - set(expected), train)):
        if missing:
            raise CoterieError(
                f"{str(place)!r} lacks the class {min(missing)!r}: train and {folder.name} need the same sub-folders"
            )


def _require_all_classes(files: Files, classes: Sequence[str], folder: Path) -> None:
    present = set(files.labels.tolist())
    empty = [name for label, name in enumerate(classes) if label not in present]
    if empty:
        raise CoterieError(f"the class {empty[0]!r} in {str(folder)!r} holds no images that can be read")


def _without(files: Files, bad: set[str]) -> Files:
    keep = np.array([index for index, path in enumerate(files.paths) if str(path) not in bad], dtype=np.int64)
    return files.take(keep)


def _undecodable(parts: Sequence[Files]) -> list[tuple[str, str]]:
    """Paths that cannot be decoded, and why. The answer is kept for files whose size and time of change stay the same."""
    paths = [path for part in parts for path in part.paths]
    whole = len(paths) <= DECODE_AT_MOST

    def scan() -> list[tuple[str, str]]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            problems = pool.map(lambda path: _problem(path, whole), paths)
            return [(str(path), problem) for path, problem in zip(paths, problems, strict=True) if problem]

    return [(path, reason) for path, reason in remembered("scans", fingerprint(paths, f"decode={whole}"), scan)]


def _problem(path: Path, whole: bool) -> str:
    """Why a file cannot be decoded; empty where it can.

    Raises:
        CoterieError: the file may not be read, which is no damage of the image.
    """
    try:
        with Image.open(path) as image:
            if whole:
                image.load()
    except PermissionError as error:
        raise CoterieError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except Exception as error:  # decoders raise what they like on broken files
        reason = " ".join(str(error).replace(repr(str(path)), "it").split())
        return (reason or type(error).__name__)[:120]
    return ""
