"""Data sets by name: embedded, downloaded by torchvision, or read from ``data.root`` or a folder of the user's."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coterie.data.cache import cache_folder
from coterie.data.catalogue import OWN_DATA, require_folder
from coterie.data.decoding import memory_size
from coterie.data.folders import read_folder
from coterie.data.objects import hub, to_arrays
from coterie.data.raw import Arrays, RawData, four_axes, numbered
from coterie.data.splits import TEST_SHARE, assign_held_out, carve
from coterie.data.statistics import KNOWN
from coterie.errors import CoterieError
from coterie.sections import DataRecipe

DIGITS = tuple("0123456789")


def read_source(recipe: DataRecipe, whole: bool = False) -> RawData:
    """The data set that a recipe names.

    Args:
        recipe: its name and place.
        whole: measure it and train on nothing: all of what has no splits is the test split.

    Raises:
        CoterieError: an unknown name, a missing or unusable folder, a download that failed.
    """
    name = recipe.name
    if name in KNOWN:
        return _named(name, Path(recipe.root) if recipe.root is not None else None, recipe, whole)
    if recipe.root is not None:
        raise CoterieError(f"data.root={recipe.root!r} applies to {', '.join(KNOWN)}, not to data={name}")
    if name == OWN_DATA:
        raise CoterieError(
            "the run was trained on data of your own, which are not in its folder: pass them again, data=(train, validation, test), in Python"
        )
    if name == "digits":
        return digits()
    if name.startswith("hf://"):
        return hub(name, recipe)
    path = require_folder(name)
    return _from_npz(path, path.resolve().name, recipe, whole) if _holds_npz(path) else read_folder(path, recipe, whole)


def digits() -> RawData:
    """scikit-learn's digit images, grey values 0..16 stretched to 0..255; a fifth of each class, fixed, is the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    train, test = carve(Arrays(images, bunch.target.astype(np.int64)), TEST_SHARE, 0, "test", DIGITS)
    return RawData("digits", DIGITS, train, None, test, flip=False)


def _named(name: str, root: Path | None, recipe: DataRecipe, whole: bool) -> RawData:
    """A known data set from a folder tree, .npz files or torchvision's own files, which are downloaded where missing."""
    if root is None:
        if name == "cinic10":
            raise CoterieError("data=cinic10 needs data.root: a folder with train/, valid/ and test/ of CINIC-10")
        return _from_torchvision(name, cache_folder() / "data")
    root = root.expanduser()
    if not root.is_dir():
        raise CoterieError(f"data.root={str(root)!r} is not a folder")
    if _holds_npz(root):
        raw = _from_npz(root, name, recipe, whole)
    elif (root / "train").is_dir():
        raw = read_folder(root, recipe, whole)
    elif name == "cinic10":
        raise CoterieError(f"data.root={str(root)!r} holds no CINIC-10: expected train/, valid/ and test/")
    else:
        return _from_torchvision(name, root)
    # A grey data set kept as files is read as RGB; its one-channel statistics then do not apply.
    statistics = KNOWN[name] if raw.train.channels == len(KNOWN[name][0]) else None
    return replace(raw, name=name, statistics=statistics)


def _from_torchvision(name: str, root: Path) -> RawData:
    """Read torchvision's files, checked by their digests, and download those that are missing."""
    import torchvision.datasets
    from filelock import FileLock

    kind = {
        "cifar10": torchvision.datasets.CIFAR10,
        "cifar100": torchvision.datasets.CIFAR100,
        "fashion_mnist": torchvision.datasets.FashionMNIST,
    }[name]

    def read(download: bool) -> list[Any]:
        return [kind(str(root), train=part, download=download) for part in (True, False)]

    try:
        parts = read(download=False)
    except (
        Exception
    ):  # torchvision raises a RuntimeError where files are missing, and other kinds where they are damaged
        try:
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f".{name}.lock"):  # several processes of one run start together
                parts = read(download=True)
        except Exception as error:
            reason = " ".join(str(error).split())[:120]
            raise CoterieError(
                f"{name} is not in {str(root)!r} and could not be downloaded: {reason}\n"
                "set data.root to a folder with torchvision's files, with train/ and test/, or with train.npz"
            ) from None
    train, test = (Arrays(four_axes(np.asarray(p.data)), np.asarray(p.targets, dtype=np.int64)) for p in parts)
    return RawData(name, tuple(map(str, parts[0].classes)), train, None, test, KNOWN[name])


def _holds_npz(folder: Path) -> bool:
    return (folder / "train.npz").is_file()


def _from_npz(root: Path, name: str, recipe: DataRecipe, whole: bool) -> RawData:
    """train.npz and, where they exist, val.npz and test.npz: images uint8 [N, H, W, C] or [N, H, W], labels [N], classes."""
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
                    classes = tuple(map(str, file["classes"]))
        except CoterieError:
            raise
        # NumPy's reader raises many kinds on a damaged file, and makes room for whatever shape the file claims.
        except (
            OSError,
            ValueError,
            KeyError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
            MemoryError,
            OverflowError,
        ) as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise CoterieError(
                f"{str(path)!r} is not usable: {reason}; expected the arrays images, labels and, if you like, classes"
            ) from None
    names = classes or numbered(np.concatenate([each.labels for each in parts.values()]))
    train, validation, test = parts["train"], parts.get("val"), parts.get("test")
    if whole:
        measured = test or validation or train
        return RawData(name, names, measured, None, measured)
    incomplete = recipe.incomplete_classes == "accept"
    return RawData(name, names, *assign_held_out(train, validation, test, recipe.validation_seed, names, incomplete))


def _require_fitting(path: Path) -> None:
    """Refuse an archive whose contents would not fit into half of the memory."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > memory_size() // 2:
        raise CoterieError(
            f"{str(path)!r} unpacks to {unpacked / 2**30:.1f} GiB, more than half of this machine's memory"
        )
