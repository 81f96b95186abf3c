"""Recognises splits by the names of folders: ``train``, ``Val``, ``TEST``, ``train_images``, ``dev``, ``train2017``, ..."""

from __future__ import annotations

import re
from collections.abc import Iterable

from coterie.errors import CoterieError

SPLITS = ("train", "validation", "test")
WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "devel", "development"), "validation"),
    **dict.fromkeys(("eval", "evaluation"), "validation"),
    **dict.fromkeys(("test", "testing", "tst", "holdout"), "test"),
}
# Words that do not affect which split it is.
FILLERS = {
    "images",
    "image",
    "imgs",
    "img",
    "pictures",
    "pics",
    "photos",
    "frames",
    "data",
    "dataset",
    "set",
    "sets",
    "split",
    "splits",
    "samples",
    "files",
    "folder",
    "part",
}


def split_of(name: str) -> str | None:
    """Returns the split that a name denotes, ignoring case and filler words such as images or set; None if it denotes none.

    >>> split_of("Train"), split_of("val_images"), split_of("trainset2017"), split_of("dev"), split_of("test tube"), split_of("trains")
    ('train', 'validation', 'train', 'validation', None, None)
    """
    split, rest = _meaning(name)
    return None if rest else split


def split_within(name: str) -> str | None:
    """Returns the split that a name mentions, whatever else it contains; None for none or several.

    >>> split_within("imagenet1k-train-0001"), split_within("cats-0001"), split_within("train-and-test")
    ('train', None, None)
    """
    return _meaning(name)[0]


def _meaning(name: str) -> tuple[str | None, str]:
    """Returns the split and the rest of the name."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    whole = "".join(words).lower()  # HoldOut
    bare = [whole] if whole in WORDS else [each for word in words if (each := _bare(word.lower()))]
    meant = [WORDS[word] for word in bare if word in WORDS]
    return meant[0] if len(meant) == 1 else None, " ".join(word for word in bare if word not in WORDS)


def _bare(word: str) -> str:
    """Strips filler words from names such as ``trainset`` and ``trainimages``; empty if nothing else remains."""
    if word in FILLERS or word in WORDS:
        return "" if word in FILLERS else word
    for filler in FILLERS:
        for rest in (word.removesuffix(filler), word.removeprefix(filler)):
            if rest in WORDS:
                return rest
    return word


def splits_by_name(names: Iterable[str], place: str) -> dict[str, str]:
    """Maps splits to folders, from the names of folders that contain subfolders.

    The rest of the names must be the same in all (``seg_train``, ``seg_test``), and there must be at least two: a class may be called ``test tube``.

    Raises:
        CoterieError: two folders for one split.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for name in sorted(names):
        split, rest = _meaning(name)
        if split is not None:
            found.setdefault(rest, {}).setdefault(split, []).append(name)
    chosen = found.get("") or next((each for each in found.values() if len(each) > 1), {})
    for split, folders in chosen.items():
        if len(folders) > 1:
            raise CoterieError(
                f"{place!r}: {' and '.join(map(repr, folders[:2]))} both look like the {split} split; rename or move one of them"
            )
    return {split: folders[0] for split, folders in chosen.items()}
