"""Runs of tiny encoders on generated syllables, in this process."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import coterie
from coterie.cli.predictions import print_predictions
from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.run_folder import RunFolder
from coterie.running.reload import evaluate_run
from coterie.tasks.speech.networks import read_values
from coterie.tasks.speech.panels import panels

QUICK = {"epochs": 2, "batch_size": 8, "device": "cpu", "log_every": 2}


@pytest.fixture(scope="module")
def encoders(save_encoder):
    """Two teachers, of which one is of another architecture and hears clips as they are."""
    return [str(save_encoder("hubert", 1)), str(save_encoder("wavlm", 2, normalize=False, model_type="wavlm"))]


def settings(encoders, **sections):
    base = {
        "task": "speech",
        "data": {"name": "tones", "train_limit": 16, "test": 0.05, "validation": 0.02, "max_seconds": 0.7},
        "network": {"layers": 1},
        "teachers": [{"network": each} for each in encoders],
        "optimizer": {"learning_rate": 0.003},
        "training": QUICK,
    }
    return {
        key: {**base.get(key, {}), **value} if isinstance(value, dict) else value
        for key, value in {**base, **sections}.items()
    }


@pytest.fixture(scope="module")
def run(encoders, tmp_path_factory):
    data = {"distortion": "student", "snr": [5, 20], "reverberation": 0.5, "band_limit": 0.5}
    return coterie.train(settings(encoders, data=data), output=tmp_path_factory.mktemp("runs") / "run", quiet=True)


def test_a_run_has_all_figures_and_files(run):
    summary = run.summary
    assert set(summary["deployed"]) == {"student", "distance", "cosine", "probe", "probe_noisy"}
    assert [(each["teacher"], each["layer"]) for each in summary["layers"]] == [
        (t, layer) for t in (0, 1) for layer in (1, 2, 3)
    ]
    assert summary["deployed"]["cosine"] == pytest.approx(np.mean([each["cosine"] for each in summary["layers"]]))
    assert list(summary["probes"]) == ["student", "random student", "teacher 0 (hubert)", "teacher 1 (wavlm)"]
    assert set(summary["probes"]["student"]) == {"speaker", "word"}
    assert all(set(each) == {"clean", "noisy"} for each in summary["probes"]["student"].values())
    for each in summary["teachers"]:
        assert {"probe", "probe_noisy", "parameters", "real_time_factor", "sha256"} <= set(each)
    assert summary["cost"]["parameters"] == summary["parameters"]["deployed"] < summary["teachers"][0]["parameters"]
    assert summary["cost"]["real_time_factor"] > 0
    description = RunFolder(run.path).read_description()
    assert (description["normalize"], description["config"]["num_hidden_layers"]) == (True, 1)
    assert not description["config"]["apply_spec_augment"]
    recipe = load_recipe(run.path / "recipe.yaml")
    assert (recipe.network.initialize, recipe.network.layers, recipe.network.normalize) == (0, 1, True)


def test_training_brings_the_student_to_its_teachers(run):
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    losses = [row["losses"]["distillation"] for row in rows if row["split"] == "train"]
    assert losses[-1] < losses[0]
    assert len([row for row in rows if "layers" in row]) == 2


def test_an_interrupted_run_goes_on_bit_by_bit(run, encoders, tmp_path, monkeypatch):
    from coterie.training.loop import Trainer

    class Killed(Exception):
        pass

    step = Trainer._optimizer_step

    def dying(self):
        if self.step == 3:
            raise Killed
        step(self)

    recipe = load_recipe(run.path / "recipe.yaml")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_optimizer_step", dying)
        with pytest.raises(Killed):
            coterie.train(recipe, output=tmp_path / "killed", quiet=True)
    again = coterie.train(output=tmp_path / "killed", resume=True, quiet=True)
    assert again.summary["students"] == run.summary["students"]
    first, second = (RunFolder(each.path).student.read_bytes() for each in (run, again))
    assert first == second


@pytest.mark.slow
def test_cached_states_train_as_the_teachers_do(encoders, tmp_path, monkeypatch):
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    common = {
        "data": {"max_seconds": 2.0, "probe": "weighted_layers"},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
    }
    names = {"asked": False, "cached": True, "read": True}
    runs = {
        name: coterie.train(
            settings(encoders, **{**common, "data": {**common["data"], "cache_states": cached}}),
            output=tmp_path / name,
            quiet=True,
        )
        for name, cached in names.items()
    }
    notes = {name: run.summary["data_notes"][-1] for name, run in runs.items()}
    assert "are computed before the first step (2 of 2 teachers)" in notes["cached"]
    assert notes["read"].endswith("are read from there")
    asked, cached, again = (runs[name].summary["deployed"] for name in names)
    assert cached == again
    for key in ("distance", "cosine"):
        assert cached[key] == pytest.approx(asked[key], rel=2e-3)
        assert cached[key] != asked[key]
    layers = runs["read"].summary["probe_layers"]
    assert {name: len(each["word"]) for name, each in layers.items()} == {
        "student": 2,
        "random student": 2,
        "teacher 0 (hubert)": 4,
        "teacher 1 (wavlm)": 4,
    }
    assert sum(layers["student"]["speaker"]) == pytest.approx(1)


def test_a_run_is_evaluated_again(run, encoders, tmp_path, monkeypatch, tone):
    split, found = evaluate_run(run.path)
    assert split == "test"
    assert found.figures["deployed"] == pytest.approx(run.summary["deployed"])
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "other").mkdir()
    for number in range(3):
        soundfile.write(tmp_path / "other" / f"{number}.wav", tone(0.4, 8000, 200 + 100 * number), 8000)
    split, other = evaluate_run(run.path, data=str(tmp_path / "other"))
    assert (split, other.figures["num_samples"]) == ("test", 3)
    assert "probe" not in other.figures["deployed"]


def test_what_a_report_shows(run):
    shown = {panel.title: panel for panel in panels(RunFolder(run.path))}
    assert list(shown) == [
        "Cosine over training",
        "Teachers and layers",
        "Linear probes",
        "Where student and teachers differ",
    ]
    assert len(shown["Where student and teachers differ"].pictures) == 3
    assert shown["Linear probes"].table.head == ("features", "speaker", "speaker, 0 dB", "word", "word, 0 dB")
    lines = shown["Cosine over training"].pictures[0].axes[0].lines
    assert [line.get_label() for line in lines][:1] == ["teacher 0 (hubert), layer 1"]
    page = (run.path / "report.html").read_text()
    assert all(title in page for title in shown)


def test_features_of_files(run, tmp_path, monkeypatch, tone, capsys):
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", tone(0.5), 16000)
    soundfile.write("b.flac", tone(0.3, 8000), 8000)
    (tmp_path / "c.wav").write_text("no audio")
    failed = print_predictions(run.path, ["a.wav", "b.flac", "c.wav"], {}, "json")
    assert failed == "1 of 3 could not be read"
    out = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert out == [
        {"input": "a.wav", "frames": 24, "width": 16, "file": "features/a.safetensors"},
        {"input": "b.flac", "frames": 14, "width": 16, "file": "features/b.safetensors"},
    ]
    kept = load_file("features/a.safetensors")
    assert kept["times"][:2].tolist() == [0.0125, 0.0325]
    with safe_open("features/a.safetensors", "pt") as file:
        assert file.metadata() == {"sample_rate": "16000", "layer": "1"}
    (answer,) = coterie.predict(run.path, tone(0.5), layer=0)
    assert answer.file is None
    assert answer.features.shape == kept["features"].shape
    assert torch.equal(coterie.predict(run.path, "a.wav", output="")[0].features, kept["features"])
    for samples, options, message in (
        ("a.wav", {"layer": 5}, "the student has the hidden states 0 to 1"),
        (tone(0.01), {}, "the clip has 160 samples, and a frame is made of 400"),
        (np.zeros((2, 2), np.float32), {}, "expected a path, or samples"),
        (["a.wav", "sub/a.flac"], {}, "two files are called 'a'"),
        ("d.wav", {}, "cannot read 'd.wav'"),
        ("a.wav", {"output": "b.flac"}, "cannot write to 'b.flac': File exists"),
    ):
        with pytest.raises(CoterieError, match=message):
            coterie.predict(run.path, samples, **options)
    with pytest.raises(CoterieError, match=r"there is no file 'd\.wav'"):
        print_predictions(run.path, ["d.wav"], {}, "json")


def test_an_export_is_transformers_own(run, tmp_path, tone):
    from transformers import AutoFeatureExtractor, AutoModel

    folder = coterie.export_run(run.path, output=tmp_path / "exported")
    network, extractor = AutoModel.from_pretrained(folder).eval(), AutoFeatureExtractor.from_pretrained(folder)
    samples = tone(0.5)
    heard = extractor(samples, sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        found = network(**heard, output_hidden_states=True)
    (own,) = coterie.predict(run.path, samples)
    torch.testing.assert_close(found.last_hidden_state[0], own.features, atol=1e-5, rtol=1e-5)
    assert type(network).__name__ == "HubertModel"
    assert len(found.hidden_states) == 2
    card = (folder / "README.md").read_text()
    assert "AutoFeatureExtractor" in card
    assert "Learnt from hubert, wavlm" in card
    coterie.export_run(run.path, output=folder)  # over the former one


@pytest.mark.slow
def test_onnx_of_any_length(run, tmp_path, tone):
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = coterie.export_run(run.path, "onnx", tmp_path / "onnx")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    for seconds in (0.2, 0.77):
        samples = tone(seconds)
        (features,) = session.run(None, {"waveforms": samples[None]})
        (own,) = coterie.predict(run.path, samples)
        np.testing.assert_allclose(features[0], own.features.numpy(), atol=1e-4)
    assert "ONNX Runtime" in (folder / "README.md").read_text()


def test_a_misspelt_key_of_a_configuration_is_refused(tmp_path):
    (tmp_path / "student.json").write_text('{"model_type": "hubert", "hidden_siz": 32}')
    with pytest.raises(coterie.CoterieError, match=r"hidden_siz.*hidden_size"):
        read_values(str(tmp_path / "student.json"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": "dml"},
            "method=dml compares predictions, and encoders of task=speech give hidden states; expected ekd",
        ),
        ({"training": {"label_smoothing": 0.1}}, "training.label_smoothing is for classes"),
        ({"data": {"views": "per_student"}}, "there is one student"),
        ({"network": {"branches": 2}}, r"method=ekd trains at most 1 student\(s\)"),
        ({"network": {"initialize": 2}}, "there are 2 teachers, numbered from 0"),
        ({"network": {"pretrained": True}}, "network.pretrained=true needs network.name"),
        ({"network": {"layers": 9, "initialize": "fresh", "name": "HUBERT"}}, "network.layers=9: .* has 3"),
        ({"network": {"name": "HUBERT", "initialize": 0}}, "has weights of its own"),
        ({"data": {"sample_rate": 8000}}, "hears 16,000 samples a second, and data.sample_rate=8000"),
        ({"teachers": []}, "ekd needs a teacher"),
        ({"teachers": [{"network": "nowhere/at/all"}]}, "there is no folder 'nowhere/at/all'; an encoder of speech is"),
        ({"method": {"name": "ekd", "layers": [7]}}, "has the hidden states 0 to 3"),
        ({"training": {"select": "best"}, "data": {"validation": 0}}, "needs a validation split"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(encoders, tmp_path, changes, message):
    if changes.get("network", {}).get("name"):
        changes = {"network": {**changes["network"], "name": encoders[0]}}
    with pytest.raises(CoterieError, match=message) as caught:
        coterie.train(settings(encoders, **changes), output=tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_probes_without_labels_are_refused(encoders, tmp_path, tone):
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.wav", tone(0.5, pitch=100.0 + 20 * number), 16000)
    settings = {
        "task": "speech",
        "data": {"name": str(tmp_path), "probe": "weighted_layers"},
        "teachers": [{"network": str(each)} for each in encoders],
    }
    with pytest.raises(CoterieError, match=r"data.probe=weighted_layers has no effect: the clips of .* have no labels"):
        coterie.train(settings, output=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
