"""What the folders of a folder of images are: splits, classes, and the files in them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coterie.data.decoding import readable_extensions
from coterie.errors import CoterieError

SPLIT_WORDS = {
    "train": {"train", "training", "trn"},
    "validation": {"val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"},
    "test": {"test", "testing", "tst", "holdout"},
}
# Words that a split's name may have besides: train_images, ValidationSet, test-data.
OTHER_WORDS = {"", "images", "image", "imgs", "img", "pictures", "photos", "set", "split", "data", "dataset", "folder"}


def split_of(name: str) -> str | None:
    """The split that a folder's name means, whatever its case and its further words; None: it means none.

    >>> split_of("Train"), split_of("val_images"), split_of("TestSet"), split_of("dev"), split_of("trainer")
    ('train', 'validation', 'test', 'validation', None)
    """
    words = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    meant = {split for split, known in SPLIT_WORDS.items() for word in words if word in known}
    known = set().union(*SPLIT_WORDS.values()) | OTHER_WORDS
    if len(meant) != 1:
        compact = "".join(words)  # trainset, valdata
        ends = [other for other in OTHER_WORDS if compact.endswith(other)]
        shorter = [compact.removesuffix(end) for end in ends]
        return next((s for s, each in SPLIT_WORDS.items() if any(word in each for word in shorter)), None)
    return meant.pop() if all(word in known for word in words) else None


def sub_folders(folder: Path) -> list[Path]:
    """Folders below one, in the order of their names; hidden ones left out.

    Raises:
        CoterieError: the folder cannot be read, or a name in it is not text.
    """
    try:
        with os.scandir(folder) as entries:  # tells folders from files without a look at each of a million files
            names = sorted(each.name for each in entries if each.is_dir() and not each.name.startswith("."))
    except OSError as error:
        raise CoterieError(f"cannot read {str(folder)!r}: {error.strerror}") from None
    found = [folder / name for name in names]
    for each in found:
        _require_text(each)
    return found


def _require_text(path: Path) -> None:
    try:
        path.name.encode("utf-8")
    except UnicodeEncodeError:
        raise CoterieError(
            f"the folder {os.fsencode(path.name)!r} in {str(path.parent)!r} has a name that is not UTF-8; rename it"
        ) from None


def find_splits(root: Path) -> tuple[dict[str, Path], list[str]]:
    """Split to folder, and the names of folders that are none of them; ``root`` itself is ``train`` where there are class folders alone.

    A folder is a split where its name says so and it holds folders of its own: a class may be called ``train``.

    Raises:
        CoterieError: two folders for one split, held-out splits without ``train``, or folders of other names that look like splits.
    """
    folders = sub_folders(root)
    found: dict[str, Path] = {}
    for folder in folders:
        split = split_of(folder.name)
        if split is None or not sub_folders(folder):
            continue
        if split in found:
            raise CoterieError(
                f"{found[split].name!r} and {folder.name!r} in {str(root)!r} both look like the {split} split; rename or move one of them"
            )
        found[split] = folder
    if found:
        ordered = {split: found[split] for split in SPLIT_WORDS if split in found}
        return ordered, [each.name for each in folders if each not in found.values()]
    _require_classes(folders, root)
    return {"train": root}, []


def _require_classes(folders: Sequence[Path], root: Path) -> None:
    """Class folders whose sub-folders have the same names are splits of other names."""
    inside = {folder.name: frozenset(each.name for each in sub_folders(folder)) for folder in folders}
    seen: dict[frozenset[str], str] = {}
    for name, names in inside.items():
        if len(names) > 1 and names in seen:
            shown = ", ".join(sorted(names)[:3])
            raise CoterieError(
                f"{seen[names]!r} and {name!r} in {str(root)!r} hold the same sub-folders ({shown}): "
                "splits are called train, val and test; classes hold images of their own"
            )
        seen.setdefault(names, name)


@dataclass
class Found:
    """Image files below a folder, and what was passed over: files by their extension, and folders that were met before."""

    paths: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    repeated: int = 0


def find_images(folder: Path, seen: set[tuple[int, int]]) -> Found:
    """Files below a folder whose extension is a picture's, in a fixed order; links are followed, hidden files left out.

    Each real folder is read once, so that links cannot lead in circles; what is no regular file (a pipe would never end) is passed over.

    Args:
        folder: where to begin.
        seen: real folders that were read before; those that are read now are added.

    Raises:
        CoterieError: a folder that cannot be read.
    """
    found = Found()
    _walk(folder, seen, found, readable_extensions())
    found.paths.sort()
    return found


def _walk(folder: Path, seen: set[tuple[int, int]], found: Found, extensions: frozenset[str]) -> None:
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            found.repeated += 1
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            inside = sorted((each for each in entries if not each.name.startswith(".")), key=lambda each: each.name)
        for entry in inside:
            if entry.is_dir():
                _walk(folder / entry.name, seen, found, extensions)
                continue
            suffix = os.path.splitext(entry.name)[1].lower()
            if not entry.is_file():
                found.others["broken link" if entry.is_symlink() else "no regular file"] += 1
            elif suffix in extensions:
                found.paths.append(folder / entry.name)
            else:
                found.others[suffix or "no extension"] += 1
    except OSError as error:
        raise CoterieError(f"cannot read {str(error.filename or folder)!r}: {error.strerror}") from None


def loose_images(folder: Path) -> int:
    """Picture files that lie in a folder itself, where only class folders are looked into."""
    with os.scandir(folder) as entries:
        return sum(
            os.path.splitext(each.name)[1].lower() in readable_extensions() and not each.name.startswith(".")
            for each in entries
            if each.is_file()
        )


def counted(others: Counter[str]) -> str:
    """What was passed over, in words.

    >>> counted(Counter({".heic": 3, ".txt": 1}))
    '3 .heic, 1 .txt'
    """
    kinds = [f"{count} {kind}" for kind, count in others.most_common(6)]
    return ", ".join(kinds) + (f" and {len(others) - 6} more kinds" if len(others) > 6 else "")
