"""Data sets as NumPy archives: a folder with train.npz and, where they exist, val.npz and test.npz."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from coterie.data.splits import assign_held_out
from coterie.errors import CoterieError
from coterie.tasks.images.data.decoding import memory_size
from coterie.tasks.images.data.objects import to_arrays
from coterie.tasks.images.data.raw import Arrays, RawData, numbered
from coterie.tasks.images.settings import ImageData


def holds_npz(folder: Path, whole: bool = False) -> bool:
    """Whether a folder is such a data set; to be measured in ``whole``, any split will do."""
    return any((folder / f"{split}.npz").is_file() for split in (("train", "val", "test") if whole else ("train",)))


def read_npz(root: Path, name: str, recipe: ImageData, whole: bool) -> RawData:
    """Images uint8 [N, H, W, C] or [N, H, W], labels [N] and, if one likes, classes: their names.

    Args:
        root: the folder.
        name: of the data set.
        recipe: how splits are carved, and what to do with classes that lack images.
        whole: measure and train on nothing: what has no splits is measured in whole.

    Raises:
        CoterieError: a damaged archive, one that does not fit into memory, or arrays of other kinds.
    """
    parts: dict[str, Arrays] = {}
    classes: tuple[str, ...] | None = None
    for split in ("train", "val", "test"):
        path = root / f"{split}.npz"
        if not path.is_file():
            continue
        try:
            _require_fitting(path)
            with np.load(path, allow_pickle=False) as file:
                parts[split] = to_arrays(file["images"], file["labels"], str(path))
                if "classes" in file and classes is None:
                    classes = _class_names(file["classes"], path)
        except CoterieError:
            raise
        # NumPy and zipfile raise many kinds on a damaged file, and make room for whatever shape the file claims.
        except Exception as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise CoterieError(
                f"{str(path)!r} is not usable: {reason}; expected the arrays images, labels and, if you like, classes"
            ) from None
    names = classes or numbered(np.concatenate([each.labels for each in parts.values()]))
    if whole:
        measured = next(parts[split] for split in ("test", "val", "train") if split in parts)
        return RawData(name, names, measured, None, measured)
    train, validation, test = parts["train"], parts.get("val"), parts.get("test")
    return RawData(name, names, *assign_held_out(train, validation, test, recipe, names))


def _require_fitting(path: Path) -> None:
    """Refuse an archive whose contents would not fit into half of the memory."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > memory_size() // 2:
        raise CoterieError(
            f"{str(path)!r} unpacks to {unpacked / 2**30:.1f} GiB, more than half of this machine's memory"
        )


def _class_names(found: Any, path: Path) -> tuple[str, ...]:
    if found.ndim != 1 or found.dtype.kind not in "USiu":
        raise CoterieError(f"{str(path)!r}: classes are {found.dtype} {list(found.shape)}, expected names [K]")
    names = tuple(each.decode("utf-8") if isinstance(each, bytes) else str(each) for each in found.tolist())
    twice = [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
    if twice:
        raise CoterieError(f"{str(path)!r}: two classes are called {twice[0]!r}")
    return names
