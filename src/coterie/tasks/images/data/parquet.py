"""Data sets in parquet files with a column of encoded images and one of classes, as the Hub stores them: their files, splits and classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from coterie.data.arrays import Labels
from coterie.data.shared import Names, SharedArray
from coterie.data.split_names import split_within
from coterie.errors import CoterieError
from coterie.tasks.images.data.archives import Archive, archive_files, assembled, by_split, chosen_splits
from coterie.tasks.images.data.parquet_index import Index, index_of
from coterie.tasks.images.data.processes import by_processes
from coterie.tasks.images.data.raw import Files, RawData, numbered
from coterie.tasks.images.data.rows import KEPT, ParquetRows
from coterie.tasks.images.data.scan import check_images
from coterie.tasks.images.settings import ImageData

PARQUET = Archive("parquet://", ".parquet")
FEW_STREAMS = 4  # below this number, batches are mixed badly


def read_parquet(place: str, recipe: ImageData, whole: bool = False) -> RawData:
    """Reads a data set in parquet files of this machine.

    Args:
        place: a folder, or paths of parquet files with ``{000..127}``, ``{train,val}`` and ``*``.
        recipe: settings for broken images and rows.
        whole: evaluate the images without training, see :func:`coterie.tasks.images.data.shards.read_shards`.

    Raises:
        CoterieError: files are missing or damaged, columns are missing, classes are ambiguous, or pyarrow is missing.
    """
    paths = archive_files(place, PARQUET)
    folder = Path(paths[0]).parent.resolve()
    name = folder.parent.name if folder.name == "data" or split_within(folder.name) else folder.name
    return from_parquet(name, place, paths, recipe, whole)


def stream_hub(name: str, recipe: ImageData, whole: bool = False) -> RawData:
    """Reads ``hf://user/dataset`` or ``hf://user/dataset:configuration`` over the network while training, a row group at a time; before, only
    footers and classes are read.

    Args:
        name: the name of the data set, whose files are parquet, its own or those that the Hub makes of them.
        recipe, whole: as for :func:`read_parquet`.

    Raises:
        CoterieError: the Hub cannot be reached, the data set has no parquet files or several configurations, or as :func:`read_parquet`.
    """
    from huggingface_hub import HfFileSystem

    place, _, configuration = name.removeprefix("hf://").partition(":")
    hub = HfFileSystem()
    try:
        for root in (f"datasets/{place}", f"datasets/{place}@refs%2Fconvert%2Fparquet"):  # its own, else the Hub's
            if paths := sorted(hub.glob(f"{root}/**/*.parquet")):
                break
    except Exception as error:  # network and permissions: the library raises many types
        raise CoterieError(f"data={name} cannot be read: {' '.join(str(error).split())[:160]}") from None
    found: dict[str, list[str]] = {}
    for path in paths:
        folders = PurePosixPath(path.removeprefix(f"{root}/")).parent.parts
        found.setdefault("/".join(each for each in folders if split_within(each) is None), []).append(path)
    if configuration:
        found = {each: files for each, files in found.items() if each.split("/")[-1] == configuration}
    if not found:
        raise CoterieError(f"data={name}: the data set has no parquet files, without which data.stream cannot read it")
    if len(found) > 1:
        raise CoterieError(
            f"data={name} has the configurations {', '.join(found)}: choose one as hf://{place}:{min(found)}"
        )
    (files,) = found.values()
    return from_parquet(name, name, files, recipe, whole, hub)


def from_parquet(
    name: str, place: str, paths: Sequence[str], recipe: ImageData, whole: bool = False, filesystem: Any = None
) -> RawData:
    """Reads a data set in these parquet files.

    Args:
        name: name of the data set.
        place: the location as named in messages.
        paths: the parquet files.
        recipe, whole: as for :func:`read_parquet`.
        filesystem: filesystem of fsspec that the paths belong to, whose images are read while training and not checked before; None: files of this machine.

    Raises:
        CoterieError: as :func:`read_parquet`.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise CoterieError(f"data={place} needs the package pyarrow: pip install 'coterie[hub]'") from None
    splits = chosen_splits(place, by_split(paths), whole)
    every = [path for split in splits.values() for path in split]
    # Labels of files of another machine are read one after another: their filesystems are not made for forks.
    indices = by_processes(
        partial(index_of, every, filesystem), len(every), 0 if filesystem is not None else recipe.workers
    )
    found = {path: Index.of(arrays) for path, arrays in zip(every, indices, strict=True)}
    splits, notes = _without_unlabelled(splits, found)
    bad = sum(int((index.codes < 0).sum()) for paths in splits.values() for index in map(found.__getitem__, paths))
    if bad and not recipe.skip_bad_images:
        first = next(path for paths in splits.values() for path in paths if (found[path].codes < 0).any())
        row = int(np.flatnonzero(found[first].codes < 0)[0])
        more = f" and {bad - 1} more" if bad > 1 else ""
        raise CoterieError(
            f"cannot use '{first}:{row}'{more}: the row has no class\nremove such rows, or leave them out with data.skip_bad_images=true"
        )
    notes += [f"left out {bad} row{'s' * (bad > 1)} without a class (data.skip_bad_images)"] * bool(bad)
    classes = _class_names({path: found[path] for paths in splits.values() for path in paths}, place)
    parts = {split: _files(paths, found, classes, filesystem) for split, paths in splits.items()}
    for split, part in parts.items():
        if not len(part):
            raise CoterieError(f"{place!r}: the {split} split holds no rows with a class")
    if filesystem is None:
        parts, undecodable, more_notes = check_images(parts, recipe)
    else:
        undecodable, more_notes = 0, ["the pictures are read while training, and were not checked before"]
        if recipe.skip_bad_images:
            more_notes.append(
                "data.skip_bad_images leaves out rows without a class; a picture that cannot be decoded stops the training"
            )
    shards = next(iter(parts.values())).stored.shards
    if shards is not None and shards.streams < FEW_STREAMS and len(np.unique(shards.numbers)) > 1:
        notes.append(
            f"the row groups are large, so that a batch is drawn from {shards.streams} of them at a time: files with row groups below {KEPT // (8 * 2**20)} MB are mixed better"
        )
    return assembled(
        name, classes, parts, recipe, whole, skipped=bad + undecodable, passed_over=0, notes=(*notes, *more_notes)
    )


def _without_unlabelled(
    splits: dict[str, list[str]], found: dict[str, Index]
) -> tuple[dict[str, list[str]], list[str]]:
    """Leaves out held-out splits without any class, as benchmarks publish their test data."""
    without = [
        split
        for split, paths in splits.items()
        if split != "train" and len(splits) > 1 and all((found[path].codes < 0).all() for path in paths)
    ]
    notes = [f"left out the {split} split, whose rows have no classes" for split in without]
    return {split: paths for split, paths in splits.items() if split not in without}, notes


def _class_names(found: dict[str, Index], place: str) -> tuple[str, ...]:
    """Returns the class names: those in the files' metadata, otherwise the texts or numbers of the rows.

    Raises:
        CoterieError: files disagree.
    """
    named = {index.classes for index in found.values() if index.named}
    if named:
        if len(named) > 1 or not all(index.named for index in found.values()):
            raise CoterieError(f"{place!r}: the files do not agree on the names of the classes")
        return named.pop()
    texts = {text for index in found.values() for text in index.classes if text}
    numbers = {text for text in texts if text.isdecimal()}
    if numbers and numbers != texts:
        raise CoterieError(
            f"{place!r} names classes by numbers and by texts: {min(numbers)!r} and {min(texts - numbers)!r}"
        )
    if numbers:
        return numbered(
            np.array(sorted(map(int, numbers)), dtype=np.int64), sum(len(index.codes) for index in found.values())
        )
    return tuple(sorted(texts))


def _files(paths: Sequence[str], found: dict[str, Index], names: tuple[str, ...], filesystem: Any) -> Files:
    """Concatenates the rows of several files, with their labels; rows without a class are left out."""
    numbers = {name: number for number, name in enumerate(names)}
    labels: list[Labels] = []
    groups, first = [], 0
    for file, path in enumerate(paths):
        index = found[path]
        of_code: Labels = np.array(
            [int(text) if text.isdecimal() and not index.named else numbers.get(text, -1) for text in index.classes]
            + [-1],
            dtype=np.int64,
        )
        labels.append(of_code[index.codes])
        starts = first + np.concatenate([[0], np.cumsum(index.rows)])[:-1]
        groups.append(np.stack([np.full(len(starts), file), np.arange(len(starts)), starts, index.sizes]))
        first += int(index.rows.sum())
    columns = {found[path].column for path in paths}
    if len(columns) > 1:
        raise CoterieError(
            f"the pictures of {paths[0]!r} and others are in the columns {' and '.join(sorted(columns))}"
        )
    stored = ParquetRows(
        Names.of(map(os.fsencode, paths)),
        SharedArray(np.concatenate(groups, axis=1).astype(np.int64)),
        first,
        columns.pop(),
        filesystem,
    )
    every = np.concatenate(labels)
    return Files(stored, every).take(np.flatnonzero(every >= 0))
