"""Splits and labels of the files of a folder or the rows of a table."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coterie.data.split_names import split_of, splits_by_name
from coterie.errors import CoterieError, did_you_mean
from coterie.tasks.speech.data.files import AudioFile
from coterie.tasks.speech.settings import SCHEME, SpeechData
from coterie.tasks.speech.suffixes import SUFFIXES

SPLIT = "split"  # column of a table
FOLDER_LABEL = "label"  # label given by a sub-folder's name


@dataclass
class Listed:
    """Listed files with their splits and labels.

    Attributes:
        paths: paths of the files, or rows that hold them.
        splits: split of each file, ``train``, ``validation`` or ``test``; empty if the data have none.
        labels: label of each file, by the label's name; empty: none.
        passed_over: number of files that are not audio.
        key: a key that changes with the files, if they have no modification times.
    """

    paths: list[AudioFile] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    labels: dict[str, list[str]] = field(default_factory=dict)
    passed_over: int = 0
    key: str | None = None


def list_files(settings: SpeechData) -> Listed:
    """List the files that a recipe names.

    Raises:
        CoterieError: the location does not exist or has no audio, or a table has no paths.
    """
    place = Path(settings.name).expanduser()
    if place.suffix.lower() == ".csv" and place.is_file():
        return _of_table(place, settings)
    if not place.is_dir():
        known = [*type(settings).names][:2]
        raise CoterieError(
            f"data={settings.name!r}{did_you_mean(settings.name, known)}: expected {', '.join(known)}, a folder of audio files, a .csv file, or {SCHEME}user/dataset"
        )
    if settings.labels is not None and settings.labels not in ([], [FOLDER_LABEL]):
        raise CoterieError(f"data.labels={settings.labels}: of a folder there is one, {FOLDER_LABEL}")
    found = Listed()
    found.labels[FOLDER_LABEL] = []
    folders = splits_by_name([each.name for each in sorted(place.iterdir()) if each.is_dir()], str(place))
    parts = {split: place / name for split, name in folders.items()} or {"": place}
    for split, part in parts.items():
        for path in _walk(part):
            if path.suffix.lower() not in SUFFIXES:
                found.passed_over += 1
                continue
            inside = path.relative_to(part).parts
            found.paths.append(path)
            found.splits.append(split)
            found.labels[FOLDER_LABEL].append(inside[0] if len(inside) > 1 else "")
    if not found.paths:
        raise CoterieError(f"{settings.name!r} holds no audio; expected files such as .wav, .flac, .ogg or .mp3")
    if settings.labels == [] or not any(found.labels[FOLDER_LABEL]):
        found.labels = {}
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files recursively, sorted, without hidden ones."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _of_table(place: Path, settings: SpeechData) -> Listed:
    with place.open(newline="", encoding="utf-8-sig") as file:
        try:
            rows = list(csv.DictReader(file, restkey=None, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise CoterieError(f"{settings.name!r} is no .csv file: {error}") from None
    columns = list(rows[0]) if rows else []
    if settings.path not in columns:
        shown = ", ".join(map(str, columns)) or "nothing"
        raise CoterieError(f"{settings.name!r} has no column {settings.path!r} (data.path); it has {shown}")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise CoterieError(
                f"{settings.name!r}, line {number}: {len(columns)} fields expected, as in the first line"
            )
    names = (
        [each for each in columns if each not in {settings.path, SPLIT}] if settings.labels is None else settings.labels
    )
    for name in names:
        if name not in columns or name == settings.path:
            raise CoterieError(f"data.labels: {settings.name!r} has no column {name!r}{did_you_mean(name, columns)}")
    splits = [_split(row.get(SPLIT, ""), settings.name, number) for number, row in enumerate(rows, 2)]
    if any(splits) and not all(splits):
        raise CoterieError(f"{settings.name!r}: line {splits.index('') + 2} names no {SPLIT}, and others do")
    paths: list[AudioFile] = [place.parent / row[settings.path] for row in rows]
    return Listed(paths, splits, {name: [row[name].strip() for row in rows] for name in names})


def _split(value: str, name: str, line: int) -> str:
    if not value.strip():
        return ""
    found = split_of(value)
    if found is None:
        raise CoterieError(f"{name!r}, line {line}: {SPLIT}={value!r}; expected train, validation or test")
    return found


def shown(paths: Sequence[str], limit: int = 3) -> str:
    """Join names for a message, shortening long lists."""
    more = len(paths) - limit
    return ", ".join(paths[:limit]) + (f" and {more:,} more" if more > 0 else "")
