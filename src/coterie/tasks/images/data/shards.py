"""Data sets in tar files in WebDataset's format: their files, splits and classes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie.data.arrays import Labels
from coterie.data.cache import digest, remembered_arrays
from coterie.data.shared import Names, SharedArray
from coterie.errors import CoterieError
from coterie.tasks.images.data.archives import Archive, archive_files, assembled, by_split, chosen_splits
from coterie.tasks.images.data.members import TarMembers
from coterie.tasks.images.data.processes import by_processes
from coterie.tasks.images.data.raw import Files, RawData, numbered
from coterie.tasks.images.data.scan import check_images
from coterie.tasks.images.data.stored import file_state
from coterie.tasks.images.data.tars import index_of
from coterie.tasks.images.settings import ImageData

CLASS_FILES = ("classes.txt", "classnames.txt")  # next to the tar files, with one class name per line
TAR = Archive("wds://", ".tar", compressed=(".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2"))
INDEXED_ALONE = 2**30  # total bytes of tar files below which no worker processes are started


def read_shards(place: str, recipe: ImageData, whole: bool = False) -> RawData:
    """Reads a data set in tar files; :func:`coterie.data.splits.assign_held_out` describes how missing splits are filled.

    Args:
        place: a folder, or paths of tar files with ``{000..127}``, ``{train,val}`` and ``*``.
        recipe: settings for broken members and images.
        whole: evaluate the images without training: ``test`` alone is enough, and data without splits are evaluated whole.

    Raises:
        CoterieError: files are missing, damaged or compressed, samples have no class, or classes are ambiguous.
    """
    splits = chosen_splits(place, by_split(archive_files(place, TAR)), whole)
    paths = {split: [Path(path) for path in paths] for split, paths in splits.items()}
    every = [path for split in paths.values() for path in split]
    found = dict(zip(every, _indices(every, recipe.workers), strict=True))
    notes, bad, others = _problems(found, recipe)
    names = _class_names(found, every[0].parent)
    parts = {split: _files([(path, found[path]) for path in each], names) for split, each in paths.items()}
    for split, part in parts.items():
        if not len(part):
            raise CoterieError(f"{place!r}: the {split} split holds no pictures with a class")
    parts, undecodable, more = check_images(parts, recipe)
    known = {"skipped": bad + undecodable, "passed_over": others, "notes": (*notes, *more)}
    return assembled(every[0].parent.resolve().name, names, parts, recipe, whole, **known)


def _indices(paths: Sequence[Path], workers: int | None) -> Iterator[dict[str, NDArray[Any]]]:
    few = sum(path.stat().st_size for path in paths) < INDEXED_ALONE
    return by_processes(partial(_index, list(paths)), len(paths), 0 if few else workers)


def _index(paths: Sequence[Path], number: int) -> dict[str, NDArray[Any]]:
    """Returns the index of a tar file, cached until the file changes.

    Raises:
        CoterieError: the file cannot be read.
    """
    path = paths[number]

    def compute() -> dict[str, NDArray[Any]]:
        try:
            return index_of(path)
        except OSError as error:
            raise CoterieError(f"cannot read {str(path)!r}: {error.strerror}") from None

    return remembered_arrays("tars", digest("tar 1", file_state(str(path))), compute)


def _said(index: dict[str, NDArray[Any]]) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(index["said"].tobytes())
    return said


def _problems(found: dict[Path, dict[str, NDArray[Any]]], recipe: ImageData) -> tuple[list[str], int, int]:
    """Returns notes about unusable members, their number, and the number of samples without an image.

    Raises:
        CoterieError: there are unusable members, and the recipe does not skip them.
    """
    bad = [
        (f"{path}/{name}" if name else str(path), reason)
        for path, index in found.items()
        for name, reason in _said(index)["problems"]
    ]
    if bad and not recipe.skip_bad_images:
        (name, reason), more = bad[0], f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise CoterieError(
            f"cannot use {name!r}{more}: {reason}\nrepair or remove, or leave out with data.skip_bad_images=true"
        )
    others = sum(_said(index)["others"] for index in found.values())
    notes = [f"passed over {others} sample{'s' * (others > 1)} of tar files without a picture"] * bool(others)
    if bad:
        shown = "; ".join(f"{name}: {reason}" for name, reason in bad[:3]) + "; ..." * (len(bad) > 3)
        notes.append(f"left out {len(bad)} of what tar files hold (data.skip_bad_images): {shown}")
    return notes, len(bad), others


def _class_names(found: dict[Path, dict[str, NDArray[Any]]], folder: Path) -> tuple[str, ...]:
    """Returns the class names: from the lines of a file next to the tar files, otherwise the class texts or numbers of the samples.

    Raises:
        CoterieError: numbers and texts are mixed, or the file does not name a class.
    """
    texts = {text for index in found.values() for text in _said(index)["classes"]}
    numbers = {text for text in texts if re.fullmatch(r"\d+", text)}
    if numbers and numbers != texts:
        raise CoterieError(
            f"the tar files in {str(folder)!r} name classes by numbers and by texts: {min(numbers)!r} and {min(texts - numbers)!r}"
        )
    file = next((folder / name for name in CLASS_FILES if (folder / name).is_file()), None)
    lines = file.read_text(encoding="utf-8").splitlines() if file is not None else []
    names = tuple(line.strip() for line in lines if line.strip())
    highest = max((int(text) for text in numbers), default=-1)
    if names and (highest >= len(names) if numbers else not texts <= set(names)):
        if not numbers:
            raise CoterieError(f"{str(file)!r} does not name the class {min(texts - set(names))!r}")
        raise CoterieError(f"{str(file)!r} names {len(names)} classes, and there is the class {highest}")
    if numbers:
        count = sum(len(index["codes"]) for index in found.values())
        return names or numbered(np.array(sorted(int(text) for text in numbers), dtype=np.int64), count)
    return names or tuple(sorted(texts))


def _files(indices: Sequence[tuple[Path, dict[str, NDArray[Any]]]], names: Sequence[str]) -> Files:
    """Concatenates the images of several tar files, with their labels."""
    numbers = {name: number for number, name in enumerate(names)}
    columns, labels, letters, bounds = [], [], [], [np.zeros(1, dtype=np.int64)]
    for tar, (_, index) in enumerate(indices):
        texts = _said(index)["classes"]
        of_code: Labels = np.array([int(text) if text.isdecimal() else numbers[text] for text in texts], dtype=np.int64)
        labels.append(of_code[index["codes"]] if texts else np.empty(0, dtype=np.int64))
        columns.append(np.stack([np.full(len(index["offsets"]), tar), index["offsets"], index["sizes"]]))
        letters.append(index["letters"])
        bounds.append(index["bounds"][1:] + bounds[-1][-1])
    stored = TarMembers(
        Names.of(os.fsencode(path) for path, _ in indices),
        Names(np.concatenate(letters), np.concatenate(bounds)),
        SharedArray(np.concatenate(columns, axis=1)),
    )
    return Files(stored, np.concatenate(labels))
