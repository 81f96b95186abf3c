"""Audio files: checks which are usable, and reads their samples, mono and at one rate."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from scipy.signal import resample_poly

from coterie.data.cache import fingerprint, remembered
from coterie.errors import CoterieError
from coterie.tasks.speech.data.clips import Samples

SILENT = 1e-4  # limit of the largest absolute sample: 80 dB below full scale
SHORTEST = 0.1  # seconds
READ_ONCE = 2**20  # frames


def require_soundfile() -> Any:
    """Import the package soundfile.

    Raises:
        CoterieError: it, or the library it comes with, is missing.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # no libsndfile
        raise CoterieError(
            f"files of audio need the package soundfile ({error}): pip install 'coterie[speech]'"
        ) from None
    return soundfile


@dataclass(frozen=True)
class Looked:
    """Result of the first check of a file.

    Attributes:
        frames: samples per channel.
        rate: samples per second.
        digest: digest of all samples.
        problem: why it cannot be used: ``broken: ...``, ``silent`` or ``too short``; empty if it can.
    """

    frames: int
    rate: int
    digest: str
    problem: str


class Openable(Protocol):
    """A file inside another one, for example in a row of a table."""

    @property
    def name(self) -> str: ...

    def open(self) -> Path | BinaryIO: ...


AudioFile = Path | Openable


class AudioFiles:
    """A :class:`~coterie.tasks.speech.data.clips.Source` of checked files.

    Args:
        files: paths, or objects to open.
        looked: result of :func:`look_at` for each file.
        rate: samples per second to return.
    """

    def __init__(self, files: Sequence[AudioFile], looked: Sequence[Looked], rate: int) -> None:
        self.files, self.looked, self.rate = list(files), list(looked), rate

    def length(self, number: int) -> int:
        """Return the number of samples of a file at this source's rate."""
        each = self.looked[number]
        return -(-each.frames * self.rate // each.rate)

    def read(self, number: int, start: int, count: int) -> Samples:
        """See :class:`~coterie.tasks.speech.data.clips.Source`. If a file has this rate, only these samples are read; otherwise the whole file is resampled.

        Raises:
            CoterieError: the file can no longer be read.
        """
        if self.looked[number].rate == self.rate:
            found = mono(self.files[number], start, count)
        else:
            found = resampled(mono(self.files[number]), self.looked[number].rate, self.rate)[start : start + count]
        return np.pad(
            found, (0, count - len(found))
        )  # compressed files may give some samples less where one seeks in them


def _opened(file: AudioFile) -> Path | BinaryIO:
    return file if isinstance(file, Path) else file.open()


def mono(file: AudioFile, start: int = 0, count: int = -1) -> Samples:
    """Read samples of a file as the mean of its channels, float32.

    Raises:
        CoterieError: it cannot be read.
    """
    soundfile = require_soundfile()
    try:
        found, _ = soundfile.read(_opened(file), frames=count, start=start, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:
        shown = str(file) if isinstance(file, Path) else file.name
        raise CoterieError(f"cannot read {shown!r}: {_reason(error)}") from None
    return np.ascontiguousarray(found.mean(axis=1))


def read_audio(path: Path, rate: int) -> Samples:
    """Read a whole file, mono and at a given rate.

    Raises:
        CoterieError: it cannot be read.
    """
    soundfile = require_soundfile()
    try:
        own = int(soundfile.info(path).samplerate)
    except (OSError, RuntimeError) as error:
        raise CoterieError(f"cannot read {str(path)!r}: {_reason(error)}") from None
    return resampled(mono(path), own, rate)


def resampled(samples: Samples, rate: int, wanted: int) -> Samples:
    """Resample with scipy's polyphase filter, float32 [ceil(S * wanted / rate)]."""
    if rate == wanted:
        return samples
    common = gcd(rate, wanted)
    return np.asarray(resample_poly(samples, wanted // common, rate // common), dtype=np.float32)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[-120:] or type(error).__name__


def look_at(files: Sequence[AudioFile], workers: int, key: str | None = None) -> list[Looked]:
    """Decode every file once to find its length and whether it is usable. The results are kept in the cache folder until the files change.

    Args:
        files: paths, or objects to open.
        workers: number of threads.
        key: a key that changes with the files; None: the files are paths, and their sizes and modification times are used.

    Raises:
        CoterieError: a file no longer exists.
    """
    require_soundfile()

    def compute() -> list[Any]:
        with ThreadPoolExecutor(workers) as pool:
            return [[each.frames, each.rate, each.digest, each.problem] for each in pool.map(_look_at, files)]

    key = key or fingerprint([each for each in files if isinstance(each, Path)], "speech 1")
    return [Looked(*each) for each in remembered("speech", key, compute)]


def _look_at(file: AudioFile) -> Looked:
    soundfile = require_soundfile()
    found, frames, peak, rate = hashlib.blake2b(digest_size=8), 0, 0.0, 0
    try:
        with soundfile.SoundFile(_opened(file)) as sound:
            rate = int(sound.samplerate)
            found.update(f"{rate} {sound.channels} ".encode())
            for block in sound.blocks(READ_ONCE, dtype="float32", always_2d=True):
                if not np.isfinite(block).all():
                    return Looked(frames, rate, "", "broken: samples that are not finite")
                frames += len(block)
                peak = max(peak, float(np.abs(block).max(initial=0.0)))
                found.update(block.tobytes())
    except (OSError, RuntimeError) as error:
        return Looked(0, 0, "", f"broken: {_reason(error)}")
    problem = "too short" if frames < SHORTEST * rate else "silent" if peak < SILENT else ""
    return Looked(frames, rate, found.hexdigest(), problem)
