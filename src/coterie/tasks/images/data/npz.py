"""Data sets as NumPy archives: a folder with train.npz and optionally val.npz and test.npz."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from coterie.data.decoding import memory_size
from coterie.data.splits import assign_held_out
from coterie.errors import CoterieError
from coterie.tasks.images.data.objects import to_arrays
from coterie.tasks.images.data.raw import Arrays, RawData, numbered
from coterie.tasks.images.settings import ImageData


def holds_npz(folder: Path, whole: bool = False) -> bool:
    """Whether a folder is such a data set; with ``whole``, any split is enough."""
    return any((folder / f"{split}.npz").is_file() for split in (("train", "val", "test") if whole else ("train",)))


def read_npz(root: Path, name: str, recipe: ImageData, whole: bool) -> RawData:
    """Reads archives with the arrays ``images``, uint8 [N, H, W, C] or [N, H, W], ``labels`` [N] and optionally ``classes``, the names.

    Args:
        root: the folder.
        name: name of the data set.
        recipe: settings for splits, and for classes that lack images.
        whole: evaluate without training: data without splits are evaluated whole.

    Raises:
        CoterieError: an archive is damaged or does not fit into memory, or its arrays have other types.
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
        # NumPy and zipfile raise many types on a damaged file, including memory errors for the shape that it claims.
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
    """Refuse an archive whose unpacked content exceeds half of the memory."""
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
