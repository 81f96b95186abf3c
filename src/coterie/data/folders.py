"""Folders of images: which classes and splits they hold, and whether every file can be decoded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from coterie.data.raw import Files, RawData
from coterie.data.splits import carve
from coterie.errors import CoterieError
from coterie.files import write_text
from coterie.recipe import DataRecipe

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
DECODE_AT_MOST = 20_000  # files; beyond that only headers are read
TEST_SHARE = 0.2  # of a folder that brings no split
NAMES = {"train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test", "testing")}


def read_folder(root: Path, recipe: DataRecipe, cache: Path) -> RawData:
    """Class folders under ``train/`` and, where they exist, ``val/`` and ``test/``; or class folders alone.

    Where only one of ``val/`` and ``test/`` exists it is the test split: the final figure comes from it, so nothing may be chosen on
    it, and validation is carved from the training images. Class folders alone give a fifth of each class as test.

    Raises:
        CoterieError: no such folder, no images, one class only, classes that differ between splits, files that cannot be read.
    """
    if not root.is_dir():
        raise CoterieError(f"{str(root)!r} is not a folder" if root.exists() else f"there is no folder {str(root)!r}")
    folders = {split: _first_folder(root, names) for split, names in NAMES.items()}
    top = folders["train"] or root
    classes = _class_names(top)
    train = _files(top, classes)
    parts: dict[str, Files | None] = {"validation": None, "test": None}
    if folders["train"] is not None:
        for split in parts:
            folder = folders[split]
            if folder is not None:
                _require_same_classes(classes, _class_names(folder), top, folder)
                parts[split] = _files(folder, classes)
    skipped = 0
    bad = _undecodable([train, *(part for part in parts.values() if part is not None)], cache)
    if bad:
        if not recipe.skip_bad_images:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise CoterieError(f"cannot decode {bad[0]!r}{more}; repair or remove it, or set data.skip_bad_images=true")
        skipped = len(bad)
        train = _without(train, set(bad))
        parts = {split: _without(part, set(bad)) if part is not None else None for split, part in parts.items()}
    _require_all_classes(train, classes, top)
    validation, test = parts["validation"], parts["test"]
    if test is None:
        validation, test = None, validation
    if test is None:
        rest, carved = carve(train, TEST_SHARE, recipe.validation_seed, "test")
        assert isinstance(rest, Files)
        assert isinstance(carved, Files)
        train, test = rest, carved
    return RawData(root.resolve().name, tuple(classes), train, validation, test, skipped=skipped)


def _first_folder(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


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
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(
            each for each in (folder / name).rglob("*") if each.suffix.lower() in EXTENSIONS and each.is_file()
        )
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise CoterieError(f"{str(folder)!r} holds no images: expected files such as {classes[0]}/1.jpg")
    if len(classes) == 1:
        raise CoterieError(
            f"{str(folder)!r} holds one class, {classes[0]!r}: expected at least two sub-folders with images"
        )
    return Files(tuple(paths), np.array(labels, dtype=np.int64))


def _require_same_classes(expected: Sequence[str], found: Sequence[str], train: Path, folder: Path) -> None:
    for missing, place in ((set(expected) - set(found), folder), (set(found) - set(expected), train)):
        if missing:
            raise CoterieError(
                f"{str(place)!r} lacks the class {sorted(missing)[0]!r}: train and {folder.name} need the same sub-folders"
            )


def _require_all_classes(files: Files, classes: Sequence[str], folder: Path) -> None:
    present = set(files.labels.tolist())
    empty = [name for label, name in enumerate(classes) if label not in present]
    if empty:
        raise CoterieError(f"the class {empty[0]!r} in {str(folder)!r} holds no images that can be read")


def _without(files: Files, bad: set[str]) -> Files:
    keep = np.array([index for index, path in enumerate(files.paths) if str(path) not in bad], dtype=np.int64)
    return files.take(keep)


def _undecodable(parts: Sequence[Files], cache: Path) -> list[str]:
    """Paths that cannot be decoded. The answer is kept for files whose size and time of change stay the same."""
    paths = [path for part in parts for path in part.paths]
    whole = len(paths) <= DECODE_AT_MOST
    digest = hashlib.blake2b(f"decode={whole}".encode(), digest_size=16)
    for path in paths:
        status = path.stat()
        digest.update(f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    record = cache / "scans" / f"{digest.hexdigest()}.json"
    if record.is_file():
        try:
            return [str(each) for each in json.loads(record.read_text(encoding="utf-8"))]
        except ValueError:
            record.unlink()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        good = list(pool.map(lambda path: _decodes(path, whole), paths))
    bad = [str(path) for path, fine in zip(paths, good, strict=True) if not fine]
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_text(record, json.dumps(bad))
    except Exception:  # a cache that cannot be written only costs time
        return bad
    return bad


def _decodes(path: Path, whole: bool) -> bool:
    try:
        with Image.open(path) as image:
            if whole:
                image.load()
        return True
    except Exception:  # decoders raise what they like on broken files
        return False
