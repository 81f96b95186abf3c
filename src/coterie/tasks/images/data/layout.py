"""The layout of a folder of images: folders of splits and classes, and the files in them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from coterie.data.decoding import readable_extensions
from coterie.data.split_names import SPLITS, split_of, splits_by_name
from coterie.errors import CoterieError
from coterie.tasks.images.data.stored import PathList


def sub_folders(folder: Path) -> list[Path]:
    """Returns the subfolders of a folder, sorted by name, without hidden ones.

    Raises:
        CoterieError: the folder cannot be read, or a name in it is not text.
    """
    try:
        with os.scandir(folder) as entries:  # distinguishes folders from files without a stat of each
            names = sorted(each.name for each in entries if not each.name.startswith(".") and _is_folder(each))
    except OSError as error:
        raise CoterieError(f"cannot read {str(folder)!r}: {error.strerror}") from None
    found = [folder / name for name in names]
    for each in found:
        _require_text(each)
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _require_text(path: Path) -> None:
    try:
        path.name.encode("utf-8")
    except UnicodeEncodeError:
        raise CoterieError(
            f"the folder {os.fsencode(path.name)!r} in {str(path.parent)!r} has a name that is not UTF-8; rename it"
        ) from None


def find_splits(root: Path) -> tuple[dict[str, Path], list[str]]:
    """Returns the folder of each split, and the names of folders that are no split; ``root`` itself is ``train`` if there are only class folders.

    A folder is a split if it has the name of one and contains folders: a class may also be called ``train``.

    Raises:
        CoterieError: two folders are the same split, or class folders look like splits.
    """
    folders = sub_folders(root)
    inside = {folder.name: [each.name for each in sub_folders(folder)] for folder in folders}
    named = splits_by_name([name for name, names in inside.items() if names], str(root))
    if named:
        ordered = {split: _unwrapped(root / named[split], split) for split in SPLITS if split in named}
        _require_apart(ordered)
        return ordered, [name for name in inside if name not in named.values()]
    _require_classes(root, inside)
    return {"train": root}, []


def _unwrapped(folder: Path, split: str) -> Path:
    """Returns the inner folder of ``train/train/`` or ``seg_train/seg_train/``, which unpacked archives often have."""
    inside = sub_folders(folder)
    if len(inside) == 1 and inside[0].name == folder.name and sub_folders(inside[0]) and not loose_images(folder):
        return _unwrapped(inside[0], split)
    return folder


def _require_apart(splits: dict[str, Path]) -> None:
    """Checks that no two splits are the same folder, which links allow."""
    seen: dict[tuple[int, int], Path] = {}
    for folder in splits.values():
        other = seen.setdefault(_identity(folder), folder)
        if other != folder:
            raise CoterieError(f"{str(other)!r} and {str(folder)!r} are one folder: figures need images of their own")


def _require_classes(root: Path, inside: dict[str, list[str]]) -> None:
    """Refuse class folders that are splits, by their names or their content."""
    flat = [name for name, names in inside.items() if split_of(name) in {"validation", "test"} and not names]
    expected = (
        "expected train/, val/ and test/ with a folder for each class in them, or one folder of images for each class"
    )
    if flat:
        raise CoterieError(
            f"{flat[0]!r} in {str(root)!r} is called like a split and holds no class folders: {expected}"
        )
    first: tuple[str, set[str]] | None = None
    for name, names in inside.items():
        if not names or loose_images(root / name):
            continue
        if len({split_of(each) for each in names} - {None}) > 1:
            raise CoterieError(f"{name!r} in {str(root)!r} holds splits ({', '.join(names[:3])}): {expected}")
        shared = sorted(first[1].intersection(names)) if first is not None else []
        if first is not None and len(shared) > 1:
            raise CoterieError(
                f"{first[0]!r} and {name!r} in {str(root)!r} hold folders of the same names ({', '.join(shared[:3])}), "
                f"which look like classes in splits: {expected}"
            )
        # Splits share all or most of their names, so compare with the folder that has most names.
        if first is None or len(names) > len(first[1]):
            first = name, set(names)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


@dataclass
class Found:
    """Image files below folders, ignored files by extension, and the number of folders that were already visited."""

    files: PathList = field(default_factory=PathList)
    others: Counter[str] = field(default_factory=Counter)
    repeated: int = 0


class Walk:
    """Walks through a data set's folders and visits each real folder once: links may lead in circles, up, or into another class.

    Args:
        root: the data set's folder.
        splits: the folders of its splits; ``root`` itself if there are only class folders.
    """

    def __init__(self, root: Path, splits: Iterable[Path]) -> None:
        # Owner (class folder) of each real folder; None for the folders above the classes.
        self.owners: dict[tuple[int, int], Path | None] = {_identity(folder): None for folder in [root, *splits]}
        for split in splits:
            for folder in sub_folders(split):
                self._claim(folder, folder)

    def _claim(self, folder: Path, owner: Path) -> bool:
        """Marks a folder as visited; returns whether this is its first visit.

        Raises:
            CoterieError: the folder belongs to another class, or to the same class of another split.
        """
        identity = _identity(folder)
        if identity not in self.owners:
            self.owners[identity] = owner
            return True
        other = self.owners[identity]
        if other is not None and other != owner:
            raise CoterieError(
                f"{str(folder)!r} leads to a folder that stands in {str(other)!r} too: an image has one class and one split"
            )
        return False

    def images(self, folder: Path, found: Found) -> int:
        """Add the files below a class folder that have the extension of an image, in the order of their paths, without hidden ones.

        Files that are not regular (a pipe would never end) and links to folders that are visited anyway are ignored and counted.

        Returns:
            The number of files added.

        Raises:
            CoterieError: a folder cannot be read, or is in two classes.
        """
        before = len(found.files)
        waiting = [(str(folder), self._entries(str(folder)))]
        while waiting:
            current, entries = waiting[-1]
            entry = next(entries, None)
            if entry is None:
                waiting.pop()
            elif _take(entry, current, found):
                if self._claim_entry(entry, folder):
                    waiting.append((entry.path, self._entries(entry.path)))
                else:
                    found.repeated += 1
        return len(found.files) - before

    def _claim_entry(self, entry: os.DirEntry[str], owner: Path) -> bool:
        try:
            return self._claim(Path(entry.path), owner)
        except OSError as error:
            raise CoterieError(f"cannot read {str(error.filename or entry.path)!r}: {error.strerror}") from None

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return iter(sorted((each for each in entries if not each.name.startswith(".")), key=_name))
        except OSError as error:
            raise CoterieError(f"cannot read {str(error.filename or folder)!r}: {error.strerror}") from None


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _take(entry: os.DirEntry[str], folder: str, found: Found) -> bool:
    """Adds a file to ``found``; returns True if the entry is a folder."""
    try:
        if entry.is_dir():
            return True
        regular = entry.is_file()
    except OSError:  # a link to itself
        regular = False
    suffix = os.path.splitext(entry.name)[1].lower()
    if not regular:
        found.others["broken link" if entry.is_symlink() else "no regular file"] += 1
    elif suffix in readable_extensions():
        found.files.add(folder, entry.name)
    else:
        found.others[suffix or "no extension"] += 1
    return False


def loose_images(folder: Path) -> int:
    """Counts the image files directly in a folder, which are not read because they are outside of class folders."""
    with os.scandir(folder) as entries:
        return sum(
            os.path.splitext(each.name)[1].lower() in readable_extensions() and not each.name.startswith(".")
            for each in entries
            if _is_file(each)
        )


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def counted(others: Counter[str]) -> str:
    """Describes ignored files in words.

    >>> counted(Counter({".heic": 3, ".txt": 1}))
    '3 .heic, 1 .txt'
    """
    kinds = [f"{count} {kind}" for kind, count in others.most_common(6)]
    return ", ".join(kinds) + (f" and {len(others) - 6} more kinds" if len(others) > 6 else "")
