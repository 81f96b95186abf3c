"""Folders and tables of audio that are written here: what is read, left out, split and named."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import soundfile

from coterie.errors import CoterieError
from coterie.tasks.speech.data.files import AudioFiles, look_at, read_audio, resampled
from coterie.tasks.speech.data.sets import load_sets
from coterie.tasks.speech.settings import SpeechData


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path, tone):
    """Two labels, three rates and formats, stereo; one file each that is broken, silent, too short or no audio; one twice."""
    root = tmp_path / "audio"
    for label, pitch in (("high", 400.0), ("low", 150.0)):
        (root / label).mkdir(parents=True)
        for number in range(6):
            soundfile.write(root / label / f"{number}.wav", tone(0.5 + 0.1 * number, 16000, pitch + number), 16000)
    soundfile.write(root / "low" / "8k.flac", tone(0.5, 8000, 300.0), 8000)
    stereo = np.stack([tone(0.5, 44100, 500.0), np.zeros(22050, np.float32)], axis=1)
    soundfile.write(root / "high" / "stereo.ogg", stereo, 44100)
    soundfile.write(root / "low" / "again.wav", tone(0.5, 16000, 150.0), 16000)
    soundfile.write(root / "low" / "silence.wav", np.zeros(16000), 16000)
    soundfile.write(root / "low" / "click.wav", tone(0.02), 16000)
    soundfile.write(root / "high" / "nan.wav", np.full(8000, np.nan, np.float32), 16000, subtype="FLOAT")
    (root / "high" / "broken.wav").write_bytes(b"RIFF and nothing more")
    (root / "notes.txt").write_text("no audio")
    return root


def settings(name, **changes):
    return SpeechData(name=str(name), **changes)


def test_a_folder_of_all_sorts(folder):
    found = load_sets(settings(folder))
    assert {split: len(clips) for split, clips in found.clips.items()}.keys() == {"train", "validation", "test"}
    assert sum(map(len, found.clips.values())) == 15
    assert found.label_names == {"label": ["high", "low"]}
    assert (found.skipped, found.passed_over) == (4, 1)
    said = " | ".join(found.notes)
    assert "2 files are broken and left out: broken.wav (" in said
    assert "nan.wav (samples that are not finite)" in said
    assert "1 file is silent and left out: silence.wav" in said
    assert "1 file is too short and left out: click.wav" in said
    assert "files of 8,000 Hz, 44,100 Hz are resampled to 16,000 Hz" in said
    assert found.duplicates == {"validation": 0, "test": 0}
    again = load_sets(settings(folder))  # from the cache
    assert again.fingerprint == found.fingerprint
    (folder / "low" / "0.wav").write_bytes((folder / "high" / "0.wav").read_bytes())
    assert load_sets(settings(folder)).fingerprint != found.fingerprint


def test_samples_are_mono_and_of_one_rate(folder, tone):
    paths = [folder / "low" / "8k.flac", folder / "high" / "stereo.ogg", folder / "low" / "3.wav"]
    source = AudioFiles(paths, look_at(paths, 2), 16000)
    assert [source.length(number) for number in range(3)] == [8000, 8000, 12800]
    for number, (pitch, level) in enumerate(((300, 0.3), (500, 0.15), (153, 0.3))):
        samples = source.read(number, 0, 8000)
        spectrum = np.abs(np.fft.rfft(samples[1000:7000] * np.hanning(6000)))
        assert abs(spectrum.argmax() * 16000 / 6000 - pitch) < 4
        assert np.abs(samples[2000:6000]).max() == pytest.approx(level, rel=0.05)
    part = source.read(2, 5000, 100)
    assert np.array_equal(part, source.read(2, 0, 12800)[5000:5100])
    assert np.array_equal(read_audio(paths[2], 16000), source.read(2, 0, 12800))
    assert len(source.read(2, 12700, 200)) == 200  # beyond the end there is silence
    assert len(resampled(tone(1, 44100), 44100, 16000)) == 16000


def test_splits_that_the_data_bring(folder):
    for split in ("train", "dev", "test"):
        place = folder / split
        place.mkdir()
        for number in range(2):
            source = folder / "low" / f"{number + (2 if split == 'dev' else 0)}.wav"
            (place / f"{number}.wav").write_bytes(source.read_bytes())
    found = load_sets(settings(folder))
    assert {split: len(clips) for split, clips in found.clips.items()} == {"train": 2, "validation": 2, "test": 2}
    assert found.duplicates == {"validation": 0, "test": 2}
    assert not found.label_names
    with pytest.raises(CoterieError, match="the data bring a test split"):
        load_sets(settings(folder, test=0.2))


@pytest.fixture
def table(folder):
    path = folder / "clips.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "word", "speaker", "split"])
        for number in range(6):
            for label, speaker in (("high", "ann"), ("low", "")):
                writer.writerow([f"{label}/{number}.wav", label, speaker, "test" if number > 3 else "train"])
    return path


def test_a_table_with_labels_and_splits(table):
    found = load_sets(settings(table, validation=0.25))
    assert {split: len(clips) for split, clips in found.clips.items()} == {"train": 6, "validation": 2, "test": 4}
    assert found.label_names == {"word": ["high", "low"], "speaker": ["ann"]}
    assert set(found.clips["test"].labels["speaker"].tolist()) == {0, -1}
    assert load_sets(settings(table, labels="word")).label_names == {"word": ["high", "low"]}
    whole = load_sets(settings(table), whole=True)
    assert len(whole.clips["test"]) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "file"}, r"has no column 'file' \(data.path\); it has path, word"),
        ({"labels": ["wrd"]}, r"has no column 'wrd' \(did you mean 'word'"),
    ],
)
def test_columns_that_are_not_there(table, changes, message):
    with pytest.raises(CoterieError, match=message):
        load_sets(settings(table, **changes))


def test_names_that_stand_for_nothing(tmp_path, folder):
    with pytest.raises(CoterieError, match="data='tnes' \\(did you mean 'tones'"):
        load_sets(settings("tnes"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CoterieError, match="holds no audio"):
        load_sets(settings(tmp_path / "empty"))
    soundfile.write(tmp_path / "empty" / "a.wav", np.zeros(16000), 16000)
    with pytest.raises(CoterieError, match=r"no clip that can be used: 1 file is silent and left out: a.wav"):
        load_sets(settings(tmp_path / "empty"))
    with pytest.raises(CoterieError, match="'rain': expected white, pink, babble, or a folder"):
        load_sets(settings(folder, distortion="student", noise=["rain"]))
    with pytest.raises(CoterieError, match=r"data.labels: tones has no label 'words'; it has speaker, word"):
        load_sets(settings("tones", labels=["words"]))


def test_settings_without_effect_are_refused():
    for changes in ({"snr": (5, 10)}, {"noise": ["white"]}, {"reverberation": 0.5}):
        with pytest.raises(ValueError, match="has no effect with distortion=none"):
            settings("tones", **changes)
    with pytest.raises(ValueError, match="the lowest and the highest"):
        settings("tones", distortion="both", snr=(5, 0))


def test_a_part_of_the_training_clips():
    found = load_sets(settings("tones", train_limit=20))
    assert len(found.clips["train"]) == 20
    assert len(found.clips["test"]) == 128
    with pytest.raises(CoterieError, match="above the number of training clips, 461"):
        load_sets(settings("tones", train_limit=1000))
