"""Reads labelled texts from a CSV, JSON or parquet file, a folder of such files, or the Hub. ``tokens.py`` tokenises them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from coterie.data.arrays import Labels
from coterie.data.fingerprint import digest
from coterie.data.records import SUFFIXES, load_hub, read_records, value_of
from coterie.data.split_names import SPLITS, split_of
from coterie.data.splits import assign_held_out, carve, limit
from coterie.errors import CoterieError
from coterie.tasks.texts.settings import TextData

HUB = "hf-text://"
EXPECTED = f"a file ({', '.join(SUFFIXES)}), a folder with train, validation and test files, or {HUB}user/dataset"

Row = tuple[tuple[str, ...], str]  # one text or two, and the class


@dataclass(frozen=True)
class Texts:
    """Texts in memory: ``texts``, one or two for each sample, and ``labels`` int64 [N]."""

    texts: tuple[tuple[str, ...], ...]
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Labels) -> Texts:
        return Texts(tuple(self.texts[index] for index in indices), self.labels[indices])


@dataclass(frozen=True)
class RawTexts:
    """The splits of a source."""

    name: str
    class_names: tuple[str, ...]
    train: Texts
    validation: Texts | None
    test: Texts | None

    def splits(self) -> dict[str, Texts]:
        """Returns the existing splits by name."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: texts for name, texts in found.items() if texts is not None}


def read_texts(recipe: TextData, measured: Sequence[str] | None = None) -> RawTexts:
    """Reads the data set that a recipe names, and splits it like images: see :func:`coterie.data.splits.assign_held_out`.

    Args:
        recipe: its name, columns and splits.
        measured: class names of the networks to evaluate, for an evaluation without training: data without splits are then the test split as a whole.

    Raises:
        CoterieError: a file is missing or malformed, a column is missing, a label is empty, or only a held-out split has a class.
    """
    name, names, rows = _source(recipe.name, recipe)
    if measured is not None and rows:
        held_out = next(rows[split] for split in ("test", "validation", "train") if split in rows)
        found = _class_names(label for _, label in held_out)
        names = tuple(measured) if set(measured) >= set(found) else found
        texts = _numbered(held_out, names, f"data={recipe.name}")
        return RawTexts(name, names, texts, None, texts)
    if "train" not in rows:
        raise CoterieError(f"data={recipe.name} has no train split, only {', '.join(rows) or 'files of other names'}")
    names = names or _class_names(label for _, label in rows["train"])
    if len(names) < 2:
        raise CoterieError(f"data={recipe.name} has one class, {names[0]!r}; a classifier needs two")
    splits = {split: _numbered(found, names, f"data={recipe.name}, {split}") for split, found in rows.items()}
    incomplete = recipe.incomplete_classes == "accept"
    train, validation, test = assign_held_out(
        splits["train"], splits.get("validation"), splits.get("test"), recipe, names
    )
    if validation is None and recipe.validation > 0:
        train, validation = carve(train, recipe.validation, recipe.validation_seed, "validation", names, incomplete)
    raw = RawTexts(name, names, train, validation, test)
    if recipe.train_limit is not None:
        raw = replace(raw, train=limit(raw.train, recipe.train_limit, recipe.validation_seed))
    return raw


Source = tuple[str, tuple[str, ...], dict[str, list[Row]]]


def _source(name: str, settings: TextData) -> Source:
    """Returns the data set's name, its classes if the source orders them, and the rows of every split that has labels."""
    if name.startswith(HUB):
        return _hub(name, settings)
    path = Path(name).expanduser()
    if path.is_dir():
        files = _split_files(path)
        return path.resolve().name, (), {split: _read(file, settings) for split, file in files.items()}
    if not path.is_file():
        raise CoterieError(f"there is no {name!r}; data.name of a text recipe is {EXPECTED}")
    return path.stem, (), {"train": _read(path, settings)}


def _split_files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        split = split_of(path.stem)
        if split is None or path.suffix.lower() not in SUFFIXES:
            continue
        if split in found:
            raise CoterieError(f"{str(folder)!r} holds two files for {split}: {found[split].name} and {path.name}")
        found[split] = path
    return found


def _read(path: Path, settings: TextData) -> list[Row]:
    """Reads the rows of a file.

    Raises:
        CoterieError: the file has another format, cannot be read, or has no rows.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise CoterieError(f"{str(path)!r}: expected {EXPECTED}")
    return [_row(record, settings, f"{str(path)!r}, row {number}") for number, record in read_records(path)]


def _row(record: Mapping[str, Any], settings: TextData, where: str) -> Row:
    texts = tuple(value_of(record, column, "data.columns", where) for column in settings.columns)
    for column, text in zip(settings.columns, texts, strict=True):
        if not isinstance(text, str):
            raise CoterieError(f"{where}: {column} is {text!r}, expected a text")
    label = value_of(record, settings.label, "data.label", where)
    if not isinstance(label, str | int) or not str(label).strip():
        raise CoterieError(f"{where}: {settings.label} is {label!r}, expected the name or number of a class")
    return texts, str(label).strip()


def _class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Returns the sorted class names: numerically if all are numbers, otherwise alphabetically."""
    found = set(labels)
    try:
        return tuple(sorted(found, key=int))
    except ValueError:
        return tuple(sorted(found))


def _numbered(rows: Sequence[Row], names: tuple[str, ...], where: str) -> Texts:
    numbers = {name: number for number, name in enumerate(names)}
    unknown = sorted({label for _, label in rows} - numbers.keys())
    if unknown:
        raise CoterieError(f"{where}: the class {unknown[0]!r} is none of the training split's, {', '.join(names[:5])}")
    return Texts(tuple(texts for texts, _ in rows), np.array([numbers[label] for _, label in rows], dtype=np.int64))


def _hub(name: str, settings: TextData) -> Source:
    """Loads ``hf-text://user/dataset`` or ``hf-text://user/dataset:configuration``; a split with hidden labels (all -1) is left out.

    Raises:
        CoterieError: the extra ``hub`` is missing, or the data set cannot be loaded.
    """
    found = load_hub(name, name.removeprefix(HUB))
    rows: dict[str, list[Row]] = {}
    names: tuple[str, ...] = ()
    for split in SPLITS:
        part = found.get(split)
        if part is None:
            continue
        where = f"data={name}, {split}"
        label = part.features.get(settings.label)
        names = names or tuple(map(str, getattr(label, "names", None) or ()))
        read = [_row(record, settings, where) for record in part]
        if all(label == "-1" for _, label in read):
            continue
        if any(label == "-1" for _, label in read):
            raise CoterieError(f"{where}: some labels are -1, which means that they are not known")
        rows[split] = [(texts, names[int(label)]) for texts, label in read] if names else read
    return name, names, rows


def text_digests(samples: Texts) -> list[bytes]:
    """Returns a digest of each text or pair."""
    return [digest((len(texts),), "\0".join(texts).encode("utf-8", "surrogatepass")) for texts in samples.texts]
