"""Audio of a data set of the Hugging Face Hub: encoded files in the rows of its tables, decoded when they are needed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.data.records import load_hub
from coterie.data.split_names import splits_by_name
from coterie.errors import CoterieError, did_you_mean
from coterie.tasks.speech.data.layout import Listed
from coterie.tasks.speech.settings import SCHEME, SpeechData


@dataclass(frozen=True, eq=False)
class Encoded:
    """A file in a row.

    Attributes:
        rows: rows of one split with only the audio column, not decoded.
        column: name of the column.
        number: index of the row.
        name: display name.
    """

    rows: Any
    column: str
    number: int
    name: str

    def open(self) -> io.BytesIO | Path:
        """Return its bytes, or the path of the file.

        Raises:
            OSError: the row holds neither.
        """
        found = self.rows[self.number][self.column] or {}
        if found.get("bytes"):
            return io.BytesIO(found["bytes"])
        if not found.get("path"):
            raise OSError("the row holds no audio")
        return Path(found["path"])


def list_hub(settings: SpeechData) -> Listed:
    """List the rows of an ``hf://`` data set: the audio column, with the columns of classes as labels.

    Raises:
        CoterieError: the extra ``hub`` is missing, or the data set is not available, has no audio column or lacks a named label.
    """
    name = settings.name
    parts = load_hub(name, name.removeprefix(SCHEME))
    if not isinstance(parts, Mapping):
        raise CoterieError(f"data={name} has no splits")
    splits = splits_by_name(list(parts), name)
    if not splits:
        raise CoterieError(f"data={name} has the splits {', '.join(parts)}; expected train, validation or test")
    features = parts[next(iter(splits.values()))].features
    column = _audio_column(features, settings)
    names = [key for key in features if _is_class(features[key])] if settings.labels is None else settings.labels
    for each in names:
        if each not in features or each == column:
            raise CoterieError(f"data.labels: {name} has no column {each!r}{did_you_mean(each, list(features))}")
    found = Listed(labels={each: [] for each in names})
    key = hashlib.blake2b(f"hub 1 {name} {column}".encode(), digest_size=16)
    for split, own in splits.items():
        part = parts[own]
        rows = _undecoded(part.select_columns([column]), column)
        found.paths += [Encoded(rows, column, number, f"{own} {number}") for number in range(len(part))]
        found.splits += [split] * len(part)
        for each in names:
            found.labels[each] += _texts(part[each], features[each])
        key.update(f" {split} {len(part)} {getattr(part, '_fingerprint', '')}".encode())
    if not found.paths:
        raise CoterieError(f"data={name} has no rows")
    if set(found.splits) == {"train"}:
        found.splits = [""] * len(found.paths)  # it has no splits: they are held out later
    found.key = key.hexdigest()
    return found


def _audio_column(features: Mapping[str, Any], settings: SpeechData) -> str:
    wanted = settings.path if settings.path != type(settings).model_fields["path"].default else None
    audio = [key for key in features if type(features[key]).__name__ == "Audio"]
    if wanted is not None and wanted not in audio:
        raise CoterieError(
            f"data.path={wanted}: {settings.name} has no such column of audio; it has {', '.join(audio) or 'none'}"
        )
    if not audio:
        raise CoterieError(f"data={settings.name} has the columns {', '.join(features)}, and none of audio")
    return wanted or audio[0]


def _is_class(feature: Any) -> bool:
    return type(feature).__name__ == "ClassLabel"


def _undecoded(part: Any, column: str) -> Any:
    """Switch off decoding by the library, which needs FFmpeg; libsndfile decodes instead."""
    import datasets

    return part.cast_column(column, datasets.Audio(decode=False))


def _texts(values: Any, feature: Any) -> list[str]:
    """Return labels as texts; unknown classes are empty."""
    if _is_class(feature):
        return [feature.names[value] if value is not None and value >= 0 else "" for value in values]
    return ["" if value is None else str(value).strip() for value in values]
