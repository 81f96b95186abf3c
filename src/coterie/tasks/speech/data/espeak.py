"""Words synthesised by eSpeak NG, in several voices and at several speeds. Needs the package espeakng-loader, which brings the library and its data.

eSpeak NG is a C library with one state for the whole process, so all clips are made once, in a fixed order. They are the same in every process.
"""

from __future__ import annotations

import ctypes
import hashlib
from functools import lru_cache
from typing import Any

import numpy as np

from coterie.errors import CoterieError
from coterie.tasks.speech.data.clips import Clips, Samples
from coterie.tasks.speech.data.files import resampled

WORDS = (
    "morning", "river", "seven", "window", "paper", "garden", "yellow", "travel", "music", "doctor", "forest", "kitchen", "number", "silver", "happy", "chicken",
)  # fmt: skip
VOICES = {
    "adam": "en-us+m1",
    "bob": "en-us+m3",
    "carl": "en-us+m5",
    "dean": "en-us+m7",
    "eve": "en-us+f1",
    "faye": "en-us+f2",
    "gwen": "en-us+f4",
    "hope": "en-us+f5",
}
SPEEDS = (140, 165, 190)  # words per minute
PITCHES = (45, 50, 55)  # in 0 to 99, one for each speed
SYNCHRONOUS, UTF8 = 2, 1
RATE, PITCH = 1, 3  # parameters


class Spoken:
    """A :class:`~coterie.tasks.speech.data.clips.Source` of clips in memory."""

    def __init__(self, clips: list[Samples]) -> None:
        self.clips = clips

    def read(self, number: int, start: int, count: int) -> Samples:
        """See :class:`~coterie.tasks.speech.data.clips.Source`."""
        return self.clips[number][start : start + count]


@lru_cache(maxsize=2)
def espeak(
    rate: int, words: tuple[str, ...] = WORDS, named_voices: tuple[tuple[str, str], ...] = tuple(VOICES.items())
) -> Clips:
    """Synthesise all clips, with the labels ``speaker`` and ``word``.

    Args:
        rate: samples per second.
        words: words to say.
        named_voices: names of speakers, and eSpeak NG's names of their voices.

    Raises:
        CoterieError: the package is missing, or its library does not work here.
    """
    voice_of = dict(named_voices)
    said = [(word, voice, number) for number in range(len(SPEEDS)) for voice in voice_of for word in words]
    clips, own = _say([(word, voice_of[voice], SPEEDS[number], PITCHES[number]) for word, voice, number in said])
    found = [resampled(clip, own, rate) for clip in clips]
    speakers, spoken = sorted(voice_of), sorted(words)
    return Clips(
        Spoken(found),
        np.arange(len(found)),
        np.array([len(clip) for clip in found]),
        [f"{word} {voice} {SPEEDS[number]}" for word, voice, number in said],
        [hashlib.blake2b(clip.tobytes(), digest_size=8).hexdigest() for clip in found],
        {
            "speaker": np.array([speakers.index(voice) for _, voice, _ in said]),
            "word": np.array([spoken.index(word) for word, _, _ in said]),
        },
    )


def _say(texts: list[tuple[str, str, int, int]]) -> tuple[list[Samples], int]:
    """Return float32 samples for each text, voice, speed and pitch, and their rate."""
    try:
        import espeakng_loader  # type: ignore[import-not-found, import-untyped, unused-ignore]  # optional, and has no types
    except ImportError:
        raise CoterieError("data=espeak needs the package espeakng-loader: pip install espeakng-loader") from None
    try:
        library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
    except OSError as error:
        raise CoterieError(f"data=espeak: the library of espeakng-loader cannot be loaded: {error}") from None
    parts: list[Samples] = []

    def heard(samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            parts.append(np.ctypeslib.as_array(samples, (count,)).astype(np.float32) / np.float32(2**15))
        return 0

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)(heard)
    rate = int(library.espeak_Initialize(SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0))
    if rate <= 0:
        raise CoterieError("data=espeak: the library of espeakng-loader does not find its data")
    library.espeak_SetSynthCallback(callback)
    found = []
    try:
        for text, voice, speed, pitch in texts:
            parts.clear()
            if library.espeak_SetVoiceByName(voice.encode()):
                raise CoterieError(f"data=espeak: espeakng-loader has no voice {voice!r}")
            library.espeak_SetParameter(RATE, speed, 0)
            library.espeak_SetParameter(PITCH, pitch, 0)
            content = text.encode() + b"\0"
            library.espeak_Synth(content, len(content), 0, 1, 0, UTF8, None, None)
            library.espeak_Synchronize()
            if not parts:
                raise CoterieError(f"data=espeak: nothing is heard of {text!r}")
            found.append(np.concatenate(parts))
    finally:
        library.espeak_Terminate()
    return found, rate
