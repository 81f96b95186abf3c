"""Reads data sets by name: embedded, downloaded by torchvision, from ``data.root``, or from a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coterie.data.cache import cache_folder
from coterie.data.split_names import split_of
from coterie.data.splits import TEST_SHARE, carve, refuse_second_test
from coterie.errors import CoterieError
from coterie.tasks.images.data.archives import folder_of_archives
from coterie.tasks.images.data.catalogue import OWN_DATA, require_folder
from coterie.tasks.images.data.folders import read_folder
from coterie.tasks.images.data.layout import sub_folders
from coterie.tasks.images.data.npz import holds_npz, read_npz
from coterie.tasks.images.data.objects import hub
from coterie.tasks.images.data.parquet import PARQUET, read_parquet, stream_hub
from coterie.tasks.images.data.raw import Arrays, RawData, four_axes
from coterie.tasks.images.data.shards import TAR, read_shards
from coterie.tasks.images.data.statistics import KNOWN
from coterie.tasks.images.settings import ImageData

DIGITS = tuple("0123456789")


def read_source(recipe: ImageData, whole: bool = False) -> RawData:
    """Reads the data set that a recipe names.

    Args:
        recipe: name and path of the data set.
        whole: evaluate it without training: data without splits are the test split as a whole.

    Raises:
        CoterieError: the name is unknown, a folder is missing or unusable, or a download failed.
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
        raw = digits()
        refuse_second_test(raw.test, recipe)
        return raw
    if name.startswith("hf://"):
        return stream_hub(name, recipe, whole) if recipe.stream else hub(name, recipe)
    if name.startswith(TAR.scheme):
        return read_shards(name.removeprefix(TAR.scheme), recipe, whole)
    if name.startswith(PARQUET.scheme):
        return read_parquet(name.removeprefix(PARQUET.scheme), recipe, whole)
    path = require_folder(name)
    if holds_npz(path, whole):
        return read_npz(path, path.resolve().name, recipe, whole)
    if path.is_dir() and (tars := folder_of_archives(path, TAR.ending)):
        return read_shards(str(tars), recipe, whole)
    if path.suffix == PARQUET.ending:
        return read_parquet(name, recipe, whole)
    if path.is_dir() and (files := folder_of_archives(path, PARQUET.ending)):
        return read_parquet(str(files), recipe, whole)
    try:
        return read_folder(path, recipe, whole)
    except CoterieError as error:
        deeper = next(path.rglob(f"*{PARQUET.ending}"), None)
        if deeper is None:
            raise
        raise CoterieError(
            f"{error}\nthere are parquet files, such as {str(deeper)!r}: name those to read, as data={PARQUET.scheme}{name}/**/*{PARQUET.ending}"
        ) from None


def digits() -> RawData:
    """Loads scikit-learn's digit images, with grey values 0..16 scaled to 0..255; a fixed fifth of each class is the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    train, test = carve(Arrays(images, bunch.target.astype(np.int64)), TEST_SHARE, 0, "test", DIGITS)
    return RawData("digits", DIGITS, train, None, test, flip=False)


def _named(name: str, root: Path | None, recipe: ImageData, whole: bool) -> RawData:
    """Reads a known data set from a folder tree, .npz files or torchvision's own files, which are downloaded if missing."""
    if root is None:
        if name == "cinic10":
            raise CoterieError("data=cinic10 needs data.root: a folder with train/, valid/ and test/ of CINIC-10")
        return _from_torchvision(name, cache_folder() / "data", recipe)
    root = root.expanduser()
    if not root.is_dir():
        raise CoterieError(f"data.root={str(root)!r} is not a folder")
    if holds_npz(root, whole):
        raw = read_npz(root, name, recipe, whole)
    elif any(split_of(each.name) == "train" or (whole and split_of(each.name)) for each in sub_folders(root)):
        raw = read_folder(root, recipe, whole)
    elif name == "cinic10":
        raise CoterieError(f"data.root={str(root)!r} holds no CINIC-10: expected train/, valid/ and test/")
    else:
        return _from_torchvision(name, root, recipe)
    # A grey data set stored as image files is read as RGB; its one-channel statistics then do not apply.
    statistics = KNOWN[name] if raw.train.channels == len(KNOWN[name][0]) else None
    return replace(raw, name=name, statistics=statistics)


def _from_torchvision(name: str, root: Path, recipe: ImageData) -> RawData:
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
    except Exception:  # torchvision raises a RuntimeError if files are missing, and other types if they are damaged
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
    refuse_second_test(test, recipe)
    return RawData(name, tuple(map(str, parts[0].classes)), train, None, test, KNOWN[name])
