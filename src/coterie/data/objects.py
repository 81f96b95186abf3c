"""Assigns data sets that are passed as objects to splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from coterie.errors import CoterieError

Datasets: TypeAlias = tuple[Any, Any, Any]  # (train, validation, test); None if missing
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
EXPECTED = (
    "expected a data set's name or folder, one data set, (train, validation) or (train, validation, test), "
    "or a mapping with train; a data set is (images, labels) or gives (image, label) by number"
)


def to_datasets(data: Any) -> Datasets:
    """Returns (train, validation, test) for unambiguous data: two or three data sets, a mapping by split names, or one training set.

    Raises:
        CoterieError: anything else.
    """
    if isinstance(data, Mapping):
        return _by_name(data)
    if isinstance(data, (tuple, list)) and not is_dataset(data):
        if len(data) not in {2, 3}:
            raise CoterieError(
                f"data=(train, validation, test) takes two or three entries, got {len(data)}; use None where there is none"
            )
        train, validation, test = [*data, None][:3]
        for position, entry in enumerate((train, validation, test)):
            if entry is not None:
                _require_dataset(entry, f"data[{position}]")
        if train is None:
            raise CoterieError("data=(train, validation, test): there is no training data")
        return train, validation, test
    _require_dataset(data, "data")
    return data, None, None


def _by_name(data: Mapping[Any, Any]) -> Datasets:
    found: dict[str, Any] = {}
    for key, entry in data.items():
        split = next((split for split, names in SPLITS.items() if str(key).lower() in names), None)
        if split is None or split in found:
            names = ", ".join(map(str, data))
            raise CoterieError(f"data with the splits {names}: expected train, validation and test, each once at most")
        if entry is not None:
            _require_dataset(entry, f"data[{key!r}]")
        found[split] = entry
    if found.get("train") is None:
        raise CoterieError("data with splits by name: there is no training data")
    return found["train"], found.get("validation"), found.get("test")


def is_pair(data: Any) -> bool:
    """Whether this is (images, labels): two arrays, tensors or lists, of which the first holds images."""
    return isinstance(data, (tuple, list)) and len(data) == 2 and getattr(data[0], "ndim", 0) in {3, 4, 5} and (
        getattr(data[1], "ndim", None) == 1 or isinstance(data[1], (list, range))
    )  # fmt: skip


def _is_sample(entry: Any) -> bool:
    """Whether this is one (image, class index)."""
    if not isinstance(entry, (tuple, list)) or len(entry) != 2:
        return False
    label = entry[1]
    return (isinstance(label, (int, np.integer)) or getattr(label, "ndim", None) == 0) and not isinstance(label, bool)


def is_dataset(data: Any) -> bool:
    """Whether a tuple or list is a single data set rather than several splits."""
    return is_pair(data) or (len(data) > 0 and all(_is_sample(entry) for entry in data))


def _require_dataset(entry: Any, what: str) -> None:
    """Rejects what looks like a data set but is not, and says what to pass instead."""
    from torch.utils.data import DataLoader, IterableDataset

    kind = type(entry).__name__
    if isinstance(entry, DataLoader):
        raise CoterieError(
            f"{what} is a DataLoader, and coterie makes its own batches: pass its data set, {what}.dataset"
        )
    if isinstance(entry, IterableDataset):
        raise CoterieError(
            f"{what} is an IterableDataset ({kind}), and samples are drawn by number: pass a data set with a length, such as list(dataset)"
        )
    if isinstance(entry, (tuple, list)):
        return
    if hasattr(entry, "ndim") or hasattr(entry, "columns"):
        raise CoterieError(f"{what} is {_article(kind)} without labels: pass (images, labels)")
    named = isinstance(entry, (str, bytes, Mapping, type))
    if named or not hasattr(type(entry), "__getitem__") or not hasattr(type(entry), "__len__"):
        raise CoterieError(f"{what} is {kind}: {EXPECTED}")


def _article(kind: str) -> str:
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
