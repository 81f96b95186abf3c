"""Builds the clips of every split from the settings, with notes on the data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from coterie.data.splits import TEST_SHARE
from coterie.errors import CoterieError
from coterie.randomness import derive_seed
from coterie.tasks.speech.data import espeak, tones
from coterie.tasks.speech.data.clips import Clips, Integers, coded, described
from coterie.tasks.speech.data.files import AudioFile, AudioFiles, look_at
from coterie.tasks.speech.data.hub import list_hub
from coterie.tasks.speech.data.layout import list_files, shown
from coterie.tasks.speech.settings import NOISES, SCHEME, SpeechData

# Generated data: the function that makes them, and the names of their labels' codes.
MADE: dict[str, tuple[Callable[[int], Clips], dict[str, list[str]]]] = {
    "tones": (tones.tones, {"speaker": sorted(tones.SPEAKERS), "word": sorted(tones.WORDS)}),
    "espeak": (espeak.espeak, {"speaker": sorted(espeak.VOICES), "word": sorted(espeak.WORDS)}),
}


@dataclass(frozen=True)
class SpeechSets:
    """A data set as clips.

    Attributes:
        name: display name.
        clips: clips by split, including ``train``.
        label_names: names of a label's codes, by the label's name.
        noise: clips of the noise folders; None without such folders.
        skipped: number of files that cannot be used.
        passed_over: number of files that are not audio.
        duplicates: for each held-out split, how many of its clips are also training clips.
        notes: notes on these and other findings, in sentences.
        fingerprint: see :class:`coterie.run_schema.DataRecord`.
    """

    name: str
    clips: Mapping[str, Clips]
    label_names: Mapping[str, list[str]]
    noise: Clips | None
    skipped: int
    passed_over: int
    duplicates: Mapping[str, int]
    notes: tuple[str, ...]
    fingerprint: Mapping[str, Any]


def load_sets(settings: SpeechData, whole: bool = False) -> SpeechSets:
    """Find the clips that a recipe names, leave out unusable ones, and split them.

    Args:
        settings: the recipe's section ``data``.
        whole: use all clips without splits as the test split, and as the training split too, since nothing is trained on them.

    Raises:
        CoterieError: listing or reading fails, no clip is usable, or a split has no clips.
    """
    if settings.name in MADE:
        make, label_names = MADE[settings.name]
        found = make(settings.sample_rate)
        splits, skipped, passed_over, notes = [""] * len(found), 0, 0, list[str]()
        if settings.labels is not None:
            label_names = _chosen(label_names, settings)
            found = replace(found, labels={name: found.labels[name] for name in label_names})
    else:
        found, splits, label_names, skipped, passed_over, notes = _of_files(settings)
    parts = _parts(found, splits, settings, whole)
    clips = {split: found.take(np.sort(numbers)) for split, numbers in parts.items()}
    if settings.train_limit is not None and not whole:
        clips["train"] = _limited(clips["train"], settings)
    known = set(clips["train"].digests)
    duplicates = {
        split: sum(each in known for each in part.digests)
        for split, part in clips.items()
        if split != "train" and not whole
    }
    hub = settings.name.startswith(SCHEME)
    hours = sum(part.seconds(settings.sample_rate) for part in clips.values()) / 3600
    longest = max(int(part.lengths.max()) for part in clips.values()) / settings.sample_rate
    notes.append(f"{hours:.2g} hours, the longest clip {longest:.2f} s")
    cut = int((clips["train"].lengths > settings.max_seconds * settings.sample_rate).sum())
    if cut:
        notes.append(f"{cut:,} training clips are longer than data.max_seconds={settings.max_seconds:g} and are cut")
    return SpeechSets(
        settings.name if settings.name in type(settings).names or hub else Path(settings.name).name,
        clips,
        label_names,
        _noise(settings),
        skipped,
        passed_over,
        duplicates,
        tuple(notes),
        {
            "classes": [],
            "preparation": {"sample_rate": settings.sample_rate, "labels": {k: len(v) for k, v in label_names.items()}},
            "splits": {split: described(part, hashlib.blake2b(digest_size=8)) for split, part in clips.items()},
        },
    )


def _chosen(known: dict[str, list[str]], settings: SpeechData) -> dict[str, list[str]]:
    for name in settings.labels or []:
        if name not in known:
            raise CoterieError(f"data.labels: {settings.name} has no label {name!r}; it has {', '.join(known)}")
    return {name: known[name] for name in settings.labels or []}


def _of_files(settings: SpeechData) -> tuple[Clips, list[str], dict[str, list[str]], int, int, list[str]]:
    listed = list_hub(settings) if settings.name.startswith(SCHEME) else list_files(settings)
    looked = look_at(listed.paths, settings.workers, listed.key)
    usable = [number for number, each in enumerate(looked) if not each.problem]
    notes = []
    for problem in ("broken", "silent", "too short"):
        names = [
            f"{path.name} ({each.problem.partition(': ')[2]})" if problem == "broken" else path.name
            for path, each in zip(listed.paths, looked, strict=True)
            if each.problem.startswith(problem)
        ]
        if names:
            files = f"{len(names):,} file{'s are' if len(names) > 1 else ' is'} {problem} and left out"
            notes.append(f"{files}: {shown(names)}")
    if not usable:
        raise CoterieError(f"{settings.name!r} has no clip that can be used: {'; '.join(notes)}")
    source = AudioFiles([listed.paths[n] for n in usable], [looked[n] for n in usable], settings.sample_rate)
    label_names, labels = {}, {}
    for name, values in listed.labels.items():
        label_names[name], labels[name] = coded([values[number] for number in usable])
    rates = sorted({looked[number].rate for number in usable} - {settings.sample_rate})
    if rates:
        notes.append(
            f"files of {shown([f'{rate:,} Hz' for rate in rates])} are resampled to {settings.sample_rate:,} Hz"
        )
    clips = Clips(
        source,
        np.arange(len(usable)),
        np.array([source.length(number) for number in range(len(usable))]),
        [listed.paths[number].name for number in usable],
        [looked[number].digest for number in usable],
        labels,
    )
    splits = [listed.splits[number] for number in usable]
    return clips, splits, label_names, len(looked) - len(usable), listed.passed_over, notes


def _parts(clips: Clips, splits: list[str], settings: SpeechData, whole: bool) -> dict[str, Integers]:
    """Return the indices of each split's clips. Clips with equal content stay together."""
    everything = np.arange(len(clips))
    if not any(splits):
        parts = {"train": everything}
        if whole:
            return {"train": everything, "test": everything}
    else:
        parts = {split: np.flatnonzero([each == split for each in splits]) for split in dict.fromkeys(splits)}
    if "train" not in parts:
        if not whole:
            raise CoterieError(f"data={settings.name!r} has no training clips, only {' and '.join(parts)}")
        parts["train"] = next(iter(parts.values()))
    share = settings.test
    if share == "auto":
        if "test" not in parts and "validation" in parts:
            parts["test"] = parts.pop("validation")
        if "test" not in parts:
            parts["train"], parts["test"] = _carved(clips, parts["train"], TEST_SHARE, settings, "test")
    elif share > 0:
        if "test" in parts:
            raise CoterieError(f"data.test={share:g}: the data bring a test split; leave data.test out")
        parts["train"], parts["test"] = _carved(clips, parts["train"], share, settings, "test")
    if "validation" not in parts and settings.validation > 0:
        parts["train"], parts["validation"] = _carved(
            clips, parts["train"], settings.validation, settings, "validation"
        )
    return {split: parts[split] for split in ("train", "validation", "test") if split in parts}


def _carved(
    clips: Clips, numbers: Integers, share: float, settings: SpeechData, what: str
) -> tuple[Integers, Integers]:
    """Return the rest, and about this share of the clips.

    Raises:
        CoterieError: there are too few clips.
    """
    digests = sorted({clips.digests[number] for number in numbers})
    rng = np.random.default_rng(derive_seed(settings.validation_seed, what))
    count = max(1, round(share * len(digests)))
    if count >= len(digests):
        raise CoterieError(f"{len(digests)} different training clips are too few to hold out a {what} split; add some, or set data.{what}=0")  # fmt: skip
    chosen = {digests[index] for index in rng.permutation(len(digests))[:count]}
    held = np.array([clips.digests[number] in chosen for number in numbers])
    return numbers[~held], numbers[held]


def _limited(clips: Clips, settings: SpeechData) -> Clips:
    count = settings.train_limit or len(clips)
    if count > len(clips):
        raise CoterieError(f"data.train_limit={count} is above the number of training clips, {len(clips)}")
    order = np.random.default_rng(derive_seed(settings.validation_seed, "limit")).permutation(len(clips))
    return clips.take(np.sort(order[:count]))


def _noise(settings: SpeechData) -> Clips | None:
    """Return the clips of the folders among the kinds of noise."""
    folders = [each for each in settings.noise if each not in NOISES]
    if not folders:
        return None
    paths: list[AudioFile] = []
    for each in folders:
        listed = list_files(settings.model_copy(update={"name": each, "labels": []})) if Path(each).is_dir() else None
        if listed is None:
            raise CoterieError(f"data.noise={each!r}: expected {', '.join(NOISES)}, or a folder of audio files")
        paths += listed.paths
    looked = look_at(paths, settings.workers)
    usable = [number for number, each in enumerate(looked) if not each.problem]
    if not usable:
        raise CoterieError(f"data.noise: no file of {shown(folders)} can be used")
    source = AudioFiles([paths[n] for n in usable], [looked[n] for n in usable], settings.sample_rate)
    lengths = np.array([source.length(number) for number in range(len(usable))])
    digests = [looked[number].digest for number in usable]
    return Clips(source, np.arange(len(usable)), lengths, [paths[n].name for n in usable], digests, {})
