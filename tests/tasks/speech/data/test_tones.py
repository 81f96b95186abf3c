from __future__ import annotations

import numpy as np

from coterie.tasks.speech.data.tones import SPEAKERS, WORDS, meaning, speak, tones


def test_a_clip_is_a_function_of_its_number():
    clips, again = tones(16000), tones(16000)
    for number in (0, 77, 639):
        samples = clips.read(number)
        assert samples.dtype == np.float32
        assert len(samples) == clips.lengths[number]
        assert np.array_equal(samples, again.read(number))
        assert np.array_equal(clips.read(number, 100, 50), samples[100:150])
        assert 0.1 < np.abs(samples).max() <= 0.8
    assert 0.4 < clips.lengths.min() / 16000 < clips.lengths.max() / 16000 < 1.1


def test_labels_say_who_speaks_what():
    clips = tones(8000)
    word, speaker, take = meaning(123)
    assert (word, speaker, take) == (WORDS[3], list(SPEAKERS)[4], 1)
    assert sorted(WORDS)[clips.labels["word"][123]] == word
    assert sorted(SPEAKERS)[clips.labels["speaker"][123]] == speaker
    assert len({tuple(pair) for pair in zip(clips.labels["word"], clips.labels["speaker"], strict=True)}) == 80


def test_the_pitch_is_the_speakers():
    """By the cepstrum of a vowel, in which the vowel itself lies below that."""
    for speaker in ("anton", "hanna"):
        samples = speak("aaaa", speaker, 16000, 3)[4000:8000].astype(float)
        found = np.fft.irfft(np.log(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) + 1e-6))
        lag = 50 + int(found[50:250].argmax())
        assert abs(16000 / lag / SPEAKERS[speaker][0] - 1) < 0.2
