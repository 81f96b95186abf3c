"""Data sets in several archives (tar, parquet): their files and splits, found by names."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from coterie.data.split_names import SPLITS, split_within
from coterie.data.splits import assign_held_out
from coterie.errors import CoterieError
from coterie.tasks.images.data.layout import sub_folders
from coterie.tasks.images.data.raw import Files, RawData
from coterie.tasks.images.settings import ImageData


class Archive(NamedTuple):
    """A kind of archive: the scheme of its names, its ending, and endings of compressed files that cannot be read by sample."""

    scheme: str
    ending: str
    compressed: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return self.ending.removeprefix(".")


def folder_of_archives(folder: Path, ending: str) -> Path | None:
    """Returns the folder of such a data set: the folder itself or, as in a copy of a repository of the Hub, its only sub-folder ``data``.

    It holds archives without folders, or only folders of splits with archives. None: the folder is no such data set.
    """
    below = sub_folders(folder)
    if not below:
        return folder if any(folder.glob(f"*{ending}")) else None
    if [each.name for each in below] == ["data"]:
        return folder_of_archives(below[0], ending)
    splits = all(split_within(each.name) and not sub_folders(each) and any(each.glob(f"*{ending}")) for each in below)
    return folder if splits else None


def archive_files(place: str, archive: Archive) -> list[str]:
    """Returns the archives of a folder or pattern, in order.

    Args:
        place: a folder, or paths with ``{000..127}``, ``{train,val}`` and ``*``.
        archive: the kind of archive.

    Raises:
        CoterieError: files are missing, of another kind, or compressed.
    """
    pattern = os.path.expanduser(place)
    if "://" in pattern or pattern.startswith("pipe:"):
        raise CoterieError(f"data={archive.scheme}{place}: expected files of this machine; copy or mount them first")
    if os.path.isdir(pattern):
        folders = [Path(pattern), *(each for each in sub_folders(Path(pattern)) if split_within(each.name))]
        endings = (archive.ending, *archive.compressed)
        every = [path for folder in folders for path in sorted(folder.iterdir())]
        paths = [path for path in every if path.name.endswith(endings) and not path.name.startswith(".")]
        found = {path for path in Path(pattern).rglob(f"*{archive.ending}") if not path.name.startswith(".")}
        others = sorted(found.difference(paths))
        if others:
            raise CoterieError(
                f"{place!r} holds {archive.kind} files in other sub-folders, such as {str(others[0])!r}: name those to read, as {archive.scheme}{place}/**/*{archive.ending}"
            )
    else:
        paths = [
            Path(path)
            for each in expand(pattern)
            for path in (sorted(glob.glob(each, recursive=True)) if glob.has_magic(each) else [each])
        ]
    compressed = next((path for path in paths if archive.compressed and path.name.endswith(archive.compressed)), None)
    if compressed is not None:
        raise CoterieError(
            f"{str(compressed)!r} is compressed, and its pictures cannot be read one by one; unpack it to a {archive.ending} (pictures are compressed as they are)"
        )
    if not paths:
        raise CoterieError(f"data={archive.scheme}{place}: there are no {archive.kind} files")
    missing = [path for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more of {len(paths)}" if len(missing) > 1 else ""
        raise CoterieError(f"there is no {archive.kind} file {str(missing[0])!r}{more}")
    return [str(path) for path in paths]


def expand(pattern: str) -> Iterator[str]:
    """Expands a pattern with braces to paths, like shells and WebDataset.

    >>> list(expand("{train,val}-{08..10}.tar"))
    ['train-08.tar', 'train-09.tar', 'train-10.tar', 'val-08.tar', 'val-09.tar', 'val-10.tar']
    """
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        yield pattern
        return
    span = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if span is not None:
        first, last = span.groups()
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        choices: Sequence[str] = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = found[1].split(",")
    for choice in choices:
        yield from expand(pattern[: found.start()] + choice + pattern[found.end() :])


def by_split(paths: Sequence[str]) -> dict[str, list[str]]:
    """Returns the archives of each split, by their names or those of their folders; if no name says a split, all are train.

    Raises:
        CoterieError: only some of the names say a split.
    """
    found: dict[str | None, list[str]] = {}
    several = len({PurePath(path).parent for path in paths}) > 1  # the name of a single folder says nothing
    for path in paths:
        own = split_within(PurePath(path).stem)
        found.setdefault(own or (split_within(PurePath(path).parent.name) if several else None), []).append(path)
    if None in found and len(found) > 1:
        raise CoterieError(f"{found[None][0]!r}: its name says no split, as those of other files do")
    return {split: found[split] for split in SPLITS if split in found} or {"train": found[None]}


def chosen_splits(place: str, splits: dict[str, list[str]], whole: bool) -> dict[str, list[str]]:
    """Returns the splits to read: all, or if the data are only evaluated the one to evaluate.

    Raises:
        CoterieError: there is nothing to train on.
    """
    if whole:
        chosen = next(split for split in ("test", "validation", "train") if split in splits)
        return {chosen: splits[chosen]}
    if "train" not in splits:
        raise CoterieError(f"{place!r} holds {', '.join(splits)} but no train")
    return splits


def assembled(
    name: str, classes: tuple[str, ...], parts: dict[str, Files], recipe: ImageData, whole: bool, **known: Any
) -> RawData:
    """Returns the data set of these splits; :func:`coterie.data.splits.assign_held_out` describes how missing ones are filled."""
    if whole:
        (part,) = parts.values()
        return RawData(name, classes, part, None, part, **known)
    held_out = assign_held_out(parts["train"], parts.get("validation"), parts.get("test"), recipe, classes)
    return RawData(name, classes, *held_out, **known)
