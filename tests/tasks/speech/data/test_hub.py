"""Audio in the rows of tables: by the library where it is installed, from a local folder, and by a stand-in that has what is used of it."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile

from coterie.errors import CoterieError
from coterie.tasks.speech.data.sets import load_sets
from coterie.tasks.speech.settings import SpeechData

COUNT = {"train": 8, "test": 4}


class Audio:
    def __init__(self, decode=True):
        self.decode = decode


class ClassLabel:
    names = ("high", "low")


class Part:
    """Rows of a split; the features' classes are known by their names, as the library's are."""

    def __init__(self, columns, features, fingerprint="a"):
        self.columns, self.features, self._fingerprint = columns, features, fingerprint

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key):
        return self.columns[key] if isinstance(key, str) else {name: rows[key] for name, rows in self.columns.items()}

    def select_columns(self, names):
        return Part({name: self.columns[name] for name in names}, {name: self.features[name] for name in names})

    def cast_column(self, name, feature):
        assert not feature.decode
        return self


def stand_in(folder):
    """As ``load_dataset`` of a folder of audio: bytes in the test split, paths in the other one."""
    parts = {}
    for split in COUNT:
        paths = sorted((folder / split).rglob("*.wav"))
        audio = [{"bytes": path.read_bytes() if split == "test" else None, "path": str(path)} for path in paths]
        labels = [ClassLabel.names.index(path.parent.name) for path in paths]
        words = [path.stem for path in paths]
        features = {"audio": Audio(), "label": ClassLabel(), "word": object()}
        parts[split] = Part({"audio": audio, "label": labels, "word": words}, features)
    return parts


@pytest.fixture
def folder(tmp_path, tone, monkeypatch):
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    for split, count in COUNT.items():
        for number in range(count):
            label = ClassLabel.names[number % 2]
            place = tmp_path / "audio" / split / label
            place.mkdir(parents=True, exist_ok=True)
            rate = 8000 if number == 0 else 16000
            soundfile.write(place / f"{number}.wav", tone(0.3 + 0.05 * number, rate, 200.0 + number), rate)
    return tmp_path / "audio"


def save_parquet(folder, place):
    """The same as the Hub keeps it: tables whose columns' kinds are written beside them."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    features = {"audio": {"_type": "Audio"}, "label": {"names": list(ClassLabel.names), "_type": "ClassLabel"}}
    features["word"] = {"dtype": "string", "_type": "Value"}
    for split, part in stand_in(folder).items():
        audio = [{"bytes": Path(each["path"]).read_bytes(), "path": Path(each["path"]).name} for each in part["audio"]]
        table = pyarrow.table({"audio": audio, "label": part["label"], "word": part["word"]})
        about = json.dumps({"info": {"features": features}})
        place.mkdir(exist_ok=True)
        parquet.write_table(
            table.replace_schema_metadata({"huggingface": about}), place / f"{split}-00000-of-00001.parquet"
        )


@pytest.fixture(params=["stand-in", "library"])
def library(request, folder, tmp_path, monkeypatch):
    """The name of the data."""
    if request.param == "library":
        pytest.importorskip("datasets")
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
        save_parquet(folder, tmp_path / "tables")
        return f"hf://{tmp_path / 'tables'}"
    asked = []

    def load_dataset(place, configuration):
        asked.append((place, configuration))
        return stand_in(Path(folder))

    module = types.SimpleNamespace(load_dataset=load_dataset, Audio=Audio)
    monkeypatch.setitem(sys.modules, "datasets", module)
    return f"hf://{folder}"


def test_rows_of_audio_are_clips(library, folder):
    found = load_sets(SpeechData(name=library, validation=0.2))
    assert found.name == library
    assert {split: len(clips) for split, clips in found.clips.items()} == {"train": 6, "validation": 2, "test": 4}
    assert found.label_names == {"label": ["high", "low"]}
    test = found.clips["test"]
    own = sorted((folder / "test").rglob("*.wav"))
    for index, path in enumerate(own):
        samples, rate = soundfile.read(path, dtype="float32")
        if rate == 16000:
            np.testing.assert_array_equal(test.read(index), samples)
            np.testing.assert_array_equal(test.read(index, 100, 50), samples[100:150])
        else:
            assert len(test.read(index)) == 2 * len(samples)
    assert test.labels["label"].tolist() == [ClassLabel.names.index(path.parent.name) for path in own]
    assert "files of 8,000 Hz are resampled to 16,000 Hz" in found.notes


def test_what_is_not_there_is_named(library):
    with pytest.raises(CoterieError, match=r"data\.labels: .* has no column 'lable' \(did you mean 'label'"):
        load_sets(SpeechData(name=library, labels=["lable"]))
    with pytest.raises(CoterieError, match=r"data\.path=sound: .* has no such column of audio; it has audio"):
        load_sets(SpeechData(name=library, path="sound"))
    assert load_sets(SpeechData(name=library, labels=[])).label_names == {}


def test_columns_of_texts_are_labels_where_they_are_named(folder, monkeypatch):
    module = types.SimpleNamespace(load_dataset=lambda *names: stand_in(folder), Audio=Audio)
    monkeypatch.setitem(sys.modules, "datasets", module)
    found = load_sets(SpeechData(name="hf://user/name", labels="word"))
    assert found.label_names == {"word": [str(number) for number in range(8)]}


def test_a_row_without_audio_is_left_out(folder, monkeypatch):
    parts = stand_in(folder)
    parts["train"].columns["audio"][3] = {"bytes": None, "path": None}
    parts["train"].columns["audio"][4] = {"bytes": b"no audio", "path": "a.wav"}
    module = types.SimpleNamespace(load_dataset=lambda *names: parts, Audio=Audio)
    monkeypatch.setitem(sys.modules, "datasets", module)
    found = load_sets(SpeechData(name="hf://user/name"))
    assert found.skipped == 2
    assert any(note.startswith("2 files are broken and left out: train 3 (the row holds no audio)") for note in found.notes)  # fmt: skip


def test_data_without_audio_or_library_are_refused(folder, monkeypatch):
    part = Part({"text": ["a"]}, {"text": object()})
    module = types.SimpleNamespace(load_dataset=lambda *names: {"train": part}, Audio=Audio)
    monkeypatch.setitem(sys.modules, "datasets", module)
    with pytest.raises(CoterieError, match="has the columns text, and none of audio"):
        load_sets(SpeechData(name="hf://user/name"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CoterieError, match=r"needs the package datasets: pip install 'coterie\[hub\]'"):
        load_sets(SpeechData(name="hf://user/name"))
