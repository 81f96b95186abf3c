"""Built-in data set: syllables of a few words, spoken by a few synthetic speakers. Nothing is stored: a clip is a function of its index.

A pulse train at the speaker's pitch passes through resonators at a vowel's first three formants (the averages of Peterson and Barney 1952, rounded), shifted up or
down with the speaker's size; consonants are bursts, bands of noise and hums. It is not speech, but probes can be trained for the word and the speaker.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from coterie.randomness import derive_seed
from coterie.tasks.speech.data.clips import Clips, Samples

FORMANTS = {"a": (730, 1090, 2440), "e": (530, 1840, 2480), "i": (270, 2290, 3010), "o": (570, 840, 2410), "u": (300, 870, 2240)}  # fmt: skip
BANDWIDTHS = (80, 100, 140)  # Hz, of the formants
HUMS = {"m": (250, 1000, 2200), "n": (250, 1450, 2300), "l": (360, 1300, 2700), "r": (420, 1200, 1600)}
HISSES = {"s": 5500, "f": 2500, "h": 1500}  # Hz, centre of the noise band
BURSTS = {"b": 700, "d": 2500, "g": 1600, "p": 900, "t": 3600, "k": 2000}
WORDS = ("bada", "situ", "kolo", "mena", "pafi", "gudo", "heka", "nomi", "tuba", "riso")
# Pitch in Hz, size of the vocal tract (scales the formants), share of breath.
SPEAKERS = {
    "anton": (88, 0.92, 0.02),
    "bruno": (104, 1.0, 0.08),
    "carlo": (121, 0.95, 0.15),
    "dario": (140, 1.04, 0.03),
    "elena": (166, 1.08, 0.1),
    "fiona": (190, 1.02, 0.05),
    "greta": (214, 1.15, 0.12),
    "hanna": (240, 1.1, 0.02),
}
TAKES = 8  # of each word by each speaker
Signal = NDArray[np.float64]


class Tones:
    """A :class:`~coterie.tasks.speech.data.clips.Source` of these clips.

    Args:
        rate: samples per second.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._clip = lru_cache(maxsize=None)(self._speak)  # some megabytes in all

    def __len__(self) -> int:
        return len(WORDS) * len(SPEAKERS) * TAKES

    def _speak(self, number: int) -> Samples:
        word, speaker, _ = meaning(number)
        return speak(word, speaker, self.rate, derive_seed("tones", number))

    def length(self, number: int) -> int:
        """Return the number of samples of a clip, without synthesising it."""
        word, speaker, _ = meaning(number)
        return sum(_plan(word, speaker, self.rate, derive_seed("tones", number)).counts)

    def read(self, number: int, start: int, count: int) -> Samples:
        """See :class:`~coterie.tasks.speech.data.clips.Source`."""
        return self._clip(number)[start : start + count]


def meaning(number: int) -> tuple[str, str, int]:
    """Return word, speaker and take of a clip.

    >>> meaning(11)
    ('situ', 'bruno', 0)
    """
    rest, word = divmod(number, len(WORDS))
    take, speaker = divmod(rest, len(SPEAKERS))
    return WORDS[word], list(SPEAKERS)[speaker], take


def tones(rate: int) -> Clips:
    """Return all clips, with the labels ``speaker`` and ``word``.

    Args:
        rate: samples per second.
    """
    source = Tones(rate)
    numbers = np.arange(len(source))
    said = [meaning(number) for number in numbers.tolist()]
    speakers = sorted(SPEAKERS)
    return Clips(
        source,
        numbers,
        np.array([source.length(number) for number in numbers.tolist()]),
        [f"{word} {speaker} {take}" for word, speaker, take in said],
        [f"tone {number} {rate}" for number in numbers.tolist()],
        {
            "speaker": np.array([speakers.index(speaker) for _, speaker, _ in said]),
            "word": np.array([sorted(WORDS).index(word) for word, _, _ in said]),
        },
    )


class _Plan(NamedTuple):
    """Timing of one take of a word: samples of leading silence, of each letter, and of trailing silence; the pitch in Hz, and the loudness."""

    counts: list[int]
    pitch: float
    loudness: float


def _plan(word: str, speaker: str, rate: int, seed: int) -> _Plan:
    rng = np.random.default_rng(derive_seed(seed, "plan"))
    pitch = SPEAKERS[speaker][0] * (1 + 0.04 * rng.standard_normal())
    speed, loudness = rng.uniform(0.85, 1.2), rng.uniform(0.2, 0.8)
    silences = (rng.uniform(0.02, 0.12, 2) * rate).astype(int).tolist()
    letters = [int((0.17 if each in FORMANTS else 0.08) / speed * rng.uniform(0.9, 1.1) * rate) for each in word]
    return _Plan([silences[0], *letters, silences[1]], pitch, loudness)


def speak(word: str, speaker: str, rate: int, seed: int) -> Samples:
    """Synthesise a word by a speaker; pitch, speed and loudness vary with the seed.

    Args:
        word: a word of supported letters.
        speaker: one of ``SPEAKERS``.
        rate: samples per second.
        seed: seed of the variation.

    Returns:
        float32 [S], with a little silence before and after.
    """
    plan = _plan(word, speaker, rate, seed)
    rng = np.random.default_rng(derive_seed(seed, "sound"))
    _, size, breath = SPEAKERS[speaker]
    first, *letters, last = plan.counts
    parts = [np.zeros(first)]
    for number, (letter, count) in enumerate(zip(word, letters, strict=True)):
        falling = plan.pitch * (1.08 - 0.06 * number)  # a statement's pitch falls
        parts.append(_sound(letter, count, falling, size, breath, rate, rng))
    whole = np.concatenate([*parts, np.zeros(last)])
    whole += 1e-3 * rng.standard_normal(len(whole))  # room noise
    return (plan.loudness * whole / np.abs(whole).max()).astype(np.float32)


def _sound(
    letter: str, count: int, pitch: float, size: float, breath: float, rate: int, rng: np.random.Generator
) -> Signal:
    """Return one letter's samples, float64 [count], faded in and out."""
    noise = rng.standard_normal(count)
    if letter in BURSTS:
        found = _resonated(noise, [BURSTS[letter] * size], [600], rate)
        found *= np.exp(-np.arange(count) / (0.012 * rate)) * (np.arange(count) > 0.4 * count)  # closed, then open
        level = 0.5
    elif letter in HISSES:
        found, level = _resonated(noise, [HISSES[letter] * size], [1200], rate), 0.3
    else:
        formants = FORMANTS.get(letter) or HUMS[letter]
        phase = np.cumsum(np.full(count, pitch / rate) * (1 + 0.01 * np.sin(np.arange(count) * 35 / rate)))
        pulses = np.diff(np.floor(phase), prepend=0.0) + breath * 0.1 * noise
        pulses = lfilter([1.0], [1.0, -0.9], pulses)  # the glottis falls by 12 dB per octave, lip radiation adds 6
        found = _resonated(pulses, [each * size for each in formants], BANDWIDTHS, rate)
        level = 1.0 if letter in FORMANTS else 0.4
    edge = max(1, min(count // 4, int(0.02 * rate)))
    window = np.minimum(1.0, np.minimum(np.arange(count), np.arange(count)[::-1]) / edge)
    return level * window * found / max(1e-9, np.sqrt(np.mean(found**2)))


def _resonated(signal: Signal, middles: list[float], widths: tuple[int, ...] | list[int], rate: int) -> Signal:
    """Filter by two-pole resonators in series; those beyond the band are left out."""
    for middle, width in zip(middles, widths, strict=True):
        if middle < 0.45 * rate:
            radius, angle = np.exp(-np.pi * width / rate), 2 * np.pi * middle / rate
            poles = [1.0, -2 * radius * np.cos(angle), radius**2]
            signal = lfilter([sum(poles)], poles, signal)
    return signal
