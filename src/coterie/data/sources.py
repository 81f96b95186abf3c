"""Data sets by name: embedded, downloaded by torchvision, read from ``data.root``, or passed as objects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coterie.data.catalogue import DATA
from coterie.data.folders import read_folder
from coterie.data.raw import Arrays, Pixels, RawData
from coterie.data.splits import carve
from coterie.data.statistics import KNOWN
from coterie.errors import CoterieError, did_you_mean
from coterie.recipe import DataRecipe

DIGITS_TEST_SHARE = 0.2


def cache_folder() -> Path:
    """Where downloads and scans are kept: COTERIE_CACHE, otherwise ~/.cache/coterie."""
    return Path(os.environ.get("COTERIE_CACHE") or Path.home() / ".cache" / "coterie")


def read_source(recipe: DataRecipe) -> RawData:
    """The data set that a recipe names.

    Raises:
        CoterieError: an unknown name, a missing or unusable folder, a download that failed.
    """
    name = recipe.name
    if name == "digits":
        return digits()
    if name in KNOWN:
        root = Path(recipe.root) if recipe.root is not None else None
        if name == "cinic10" and root is None:
            raise CoterieError("data=cinic10 needs data.root: a folder with train/, valid/ and test/ of CINIC-10")
        return _named(name, root, recipe)
    if name.startswith("hf://"):
        return hub(name)
    path = Path(name)
    if not path.exists() and "/" not in name and os.sep not in name:
        names = [each for each in DATA if each.isalnum() or "_" in each]
        raise CoterieError(
            f"unknown data set {name!r}{did_you_mean(name, names)}; expected {', '.join(names[:5])}, a folder, or hf://user/dataset"
        )
    if (path / "train.npz").is_file():
        return _from_npz(path, path.name)
    return read_folder(path, recipe, cache_folder())


def digits() -> RawData:
    """scikit-learn's digit images, grey values 0..16 stretched to 0..255; a fifth of each class, fixed, is the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    train, test = carve(Arrays(images, bunch.target.astype(np.int64)), DIGITS_TEST_SHARE, 0, "test")
    return RawData("digits", tuple(str(label) for label in range(10)), train, None, test, flip=False)


def _named(name: str, root: Path | None, recipe: DataRecipe) -> RawData:
    """A known data set from a folder tree, .npz files or torchvision's own files, which are downloaded where missing."""
    if root is not None and not root.is_dir():
        raise CoterieError(f"data.root={str(root)!r} is not a folder")
    if root is not None and (root / "train.npz").is_file():
        return _from_npz(root, name)
    if root is not None and (root / "train").is_dir():
        raw = read_folder(root, recipe, cache_folder())
        return RawData(name, raw.class_names, raw.train, raw.validation, raw.test, KNOWN[name], skipped=raw.skipped)
    if name == "cinic10":
        raise CoterieError(f"data.root={str(root)!r} holds no CINIC-10: expected train/, valid/ and test/")
    return _from_torchvision(name, root or cache_folder() / "data", download=root is None)


def _from_torchvision(name: str, root: Path, download: bool) -> RawData:
    import torchvision.datasets

    kind = {
        "cifar10": torchvision.datasets.CIFAR10,
        "cifar100": torchvision.datasets.CIFAR100,
        "fashion_mnist": torchvision.datasets.FashionMNIST,
    }[name]
    try:
        train, test = (kind(str(root), train=part, download=download) for part in (True, False))
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        what = "could not be downloaded" if download else f"was not found in data.root={str(root)!r}"
        raise CoterieError(
            f"{name} {what}: {reason}\nset data.root to a folder with torchvision's files, train/ and test/, or train.npz"
        ) from None
    parts = [
        Arrays(_four_axes(np.asarray(each.data)), np.asarray(each.targets, dtype=np.int64)) for each in (train, test)
    ]
    return RawData(name, tuple(map(str, train.classes)), parts[0], None, parts[1], KNOWN[name])


def _from_npz(root: Path, name: str) -> RawData:
    """train.npz and, where they exist, val.npz and test.npz: images uint8 [N, H, W, C] or [N, H, W], labels [N], classes."""
    parts: dict[str, Arrays | None] = {}
    classes: tuple[str, ...] | None = None
    for split in ("train", "val", "test"):
        path = root / f"{split}.npz"
        parts[split] = None
        if path.is_file():
            try:
                with np.load(path, allow_pickle=False) as file:
                    parts[split] = _arrays(file["images"], file["labels"], str(path))
                    if "classes" in file and classes is None:
                        classes = tuple(map(str, file["classes"]))
            except (OSError, ValueError, KeyError) as error:
                raise CoterieError(
                    f"{str(path)!r} is not usable: {error}; expected arrays images, labels and, if you like, classes"
                ) from None
    train = parts["train"]
    assert train is not None
    validation, test = parts["val"], parts["test"]
    if test is None:
        validation, test = None, validation
    names = classes or tuple(str(label) for label in range(int(train.labels.max()) + 1))
    return RawData(name, names, train, validation, test, KNOWN.get(name))


def _arrays(images: Any, labels: Any, what: str) -> Arrays:
    """Checked arrays.

    Raises:
        CoterieError: images that are not bytes, or labels that do not match.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8 or images.ndim not in {3, 4}:
        raise CoterieError(
            f"{what}: images are {images.dtype} {list(images.shape)}, expected uint8 [N, H, W, C] or [N, H, W]"
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or (len(labels) and labels.min() < 0):
        raise CoterieError(
            f"{what}: labels are {labels.dtype} {list(labels.shape)}, expected class numbers [{len(images)}]"
        )
    return Arrays(_four_axes(images), labels.astype(np.int64))


def _four_axes(images: Pixels) -> Pixels:
    return images[..., None] if images.ndim == 3 else images


def hub(name: str) -> RawData:
    """``hf://user/dataset``: the columns image and label of its splits, kept in memory.

    Raises:
        CoterieError: the extra ``hub`` is missing, or the data set cannot be had or has no such columns.
    """
    try:
        import datasets
    except ImportError:
        raise CoterieError(f"data={name} needs the package datasets: pip install 'coterie[hub]'") from None
    try:
        found = datasets.load_dataset(name.removeprefix("hf://"))
    except Exception as error:
        raise CoterieError(f"data={name} cannot be loaded: {' '.join(str(error).split())[:160]}") from None
    splits = {split: found[split] for split in found}
    train = splits.get("train")
    if train is None:
        raise CoterieError(f"data={name} has no train split, only {', '.join(splits)}")
    image = next((key for key in ("image", "img") if key in train.features), None)
    label = next((key for key in ("label", "labels", "fine_label") if key in train.features), None)
    if image is None or label is None:
        raise CoterieError(f"data={name} has the columns {', '.join(train.features)}; expected image and label")
    validation, test = splits.get("validation"), splits.get("test")
    if test is None:
        validation, test = None, validation
    parts = [
        None if part is None else from_dataset([(row[image], row[label]) for row in part], name)
        for part in (train, validation, test)
    ]
    assert parts[0] is not None
    classes = getattr(train.features[label], "names", None)
    names = tuple(classes) if classes else tuple(map(str, range(int(parts[0].labels.max()) + 1)))
    return RawData(name, names, parts[0], parts[1], parts[2])


def from_objects(datasets: Sequence[Any]) -> RawData:
    """(train, validation, test): pairs of arrays (images, labels), or data sets of (image, label); None where there is none.

    Raises:
        CoterieError: not three entries, no training data, or samples that are not images with class numbers.
    """
    if len(datasets) != 3:
        raise CoterieError(
            f"data=(train, validation, test) takes three entries, got {len(datasets)}; use None where there is none"
        )
    train, validation, test = (
        None if each is None else from_dataset(each, f"data[{position}]") for position, each in enumerate(datasets)
    )
    if train is None or len(train) == 0:
        raise CoterieError("data=(train, validation, test): there is no training data")
    labels = np.concatenate([each.labels for each in (train, validation, test) if each is not None])
    classes = getattr(datasets[0], "classes", None)
    names = tuple(map(str, classes)) if classes is not None else tuple(map(str, range(int(labels.max()) + 1)))
    return RawData("own data", names, train, validation, test)


def from_dataset(samples: Any, what: str) -> Arrays:
    """Arrays of a pair (images, labels), or of any sequence of (image, label) whose images are equal in size.

    Images are PIL images, uint8 arrays [H, W, C], or float tensors [C, H, W] in 0..1.
    """
    if isinstance(samples, tuple) and len(samples) == 2 and hasattr(samples[0], "shape"):
        return _arrays(np.asarray(samples[0]), np.asarray(samples[1]), what)
    images, labels = [], []
    for number in range(len(samples)):
        image, label = samples[number]
        images.append(_pixels(image, f"{what}, sample {number}"))
        labels.append(int(label))
    sizes = {image.shape for image in images}
    if len(sizes) != 1:
        raise CoterieError(
            f"{what}: images of different sizes, such as {sorted(sizes)[:2]}; bring them to one, or use a folder of images"
        )
    return _arrays(np.stack(images), np.array(labels), what)


def _pixels(image: Any, what: str) -> Pixels:
    if hasattr(image, "convert"):
        image = np.asarray(image if image.mode in {"L", "RGB"} else image.convert("RGB"))
    elif hasattr(image, "detach"):
        if not image.is_floating_point() or image.min() < 0 or image.max() > 1:
            raise CoterieError(
                f"{what}: a tensor image must be float [C, H, W] with values in 0..1, without normalisation"
            )
        image = (image.detach().cpu().permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    pixels: Pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim not in {2, 3}:
        raise CoterieError(f"{what}: expected an image, got {type(image).__name__} {pixels.dtype} {list(pixels.shape)}")
    return pixels if pixels.ndim == 3 else pixels[..., None]
