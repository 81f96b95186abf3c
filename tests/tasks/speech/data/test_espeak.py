from __future__ import annotations

import sys

import numpy as np
import pytest

from coterie.errors import CoterieError
from coterie.tasks.speech.data.espeak import VOICES, WORDS, espeak
from coterie.tasks.speech.data.sets import load_sets
from coterie.tasks.speech.settings import SpeechData


def test_words_in_voices():
    pytest.importorskip("espeakng_loader")
    clips = espeak(16000)
    assert len(clips) == 3 * len(WORDS) * len(VOICES)
    assert 0.2 < clips.lengths.min() / 16000 < clips.lengths.max() / 16000 < 2
    assert all(0.1 < np.abs(clips.read(number)).max() <= 1.01 for number in range(0, len(clips), 50))
    assert len(set(clips.digests)) == len(clips)
    sets = load_sets(SpeechData(name="espeak", labels=["word"]))
    assert sets.label_names == {"word": sorted(WORDS)}
    assert espeak(16000) is clips


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    espeak.cache_clear()
    with pytest.raises(CoterieError, match="data=espeak needs the package espeakng-loader"):
        load_sets(SpeechData(name="espeak"))
