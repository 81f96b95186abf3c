"""Probes on features that are made up, so that it is known where a label stands."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coterie.methods.speech.encoder import SpeechEncoder
from coterie.tasks.speech.data.loaders import SpeechEvaluationLoader
from coterie.tasks.speech.data.sets import load_sets
from coterie.tasks.speech.probe import OneLayer, Pooled, WeightedLayers, accuracies, pooled, probe_labels
from coterie.tasks.speech.settings import SpeechData


def made_up(layer, count=90, layers=3, width=8, classes=3, seed=0):
    """Noise, but for one layer in which the class shifts its own feature."""
    rng = np.random.default_rng(seed)
    codes = np.arange(count) % classes
    features = rng.standard_normal((count, layers, width))
    features[np.arange(count), layer, codes] += 4
    return features, codes


@pytest.mark.parametrize("layer", [0, 2])
def test_the_layer_that_knows_the_label_is_found(layer):
    probe = WeightedLayers(*made_up(layer))
    assert int(np.argmax(probe.weights)) == layer
    assert probe.weights[layer] > 0.6
    assert sum(probe.weights) == pytest.approx(1)
    features, codes = made_up(layer, seed=1)
    assert (probe.predict(features) == codes).mean() > 0.9


def test_of_one_layer_it_is_scikit_learns():
    features, codes = made_up(0, layers=1, seed=2)
    features += 3.0
    other, _ = made_up(0, layers=1, seed=3)
    weighted, plain = WeightedLayers(features, codes), OneLayer(features, codes)
    assert weighted.weights == [1.0]
    assert (weighted.predict(other + 3.0) == plain.predict(other + 3.0)).mean() > 0.98
    fitted = plain.probe[-1]
    np.testing.assert_allclose(weighted._coefficients.T, fitted.coef_, atol=2e-3)


def test_labels_that_a_clip_does_not_have_do_not_count():
    features, codes = made_up(1)
    labels = np.stack([codes, np.where(np.arange(len(codes)) < 45, codes, -1), np.zeros_like(codes)], axis=1)
    train = Pooled(features, labels)
    found = probe_labels(train, {"clean": train}, ["word", "half", "constant"])
    assert list(found) == ["word", "half"]
    assert found["word"].shares["clean"] > 0.95
    assert len(found["half"].weights) == 3
    assert accuracies(train, {"clean": train}, ["word"]) == {"word": found["word"].shares}
    with torch.inference_mode():  # as a run measures
        again = probe_labels(train, {"clean": train}, ["word", "half"])
    assert again == found


def test_features_of_every_layer_are_means_over_a_clips_frames(tiny):
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(**tiny(num_hidden_layers=2, apply_spec_augment=False, layerdrop=0.0))
    encoder = SpeechEncoder(AutoModel.from_config(config), True).eval()
    settings = SpeechData(name="tones", train_limit=5)
    clips = load_sets(settings).clips["train"]
    batches = SpeechEvaluationLoader(clips, settings, 3, torch.device("cpu"))
    every, last = (pooled({"it": encoder}, batches, every_layer=each)["it"] for each in (True, False))
    assert (every.features.shape, last.features.shape) == ((5, 3, 16), (5, 1, 16))
    np.testing.assert_array_equal(every.features[:, 2:], last.features)
    index = int(batches.indices[-1])
    clip = torch.from_numpy(clips.read(index))
    with torch.no_grad():
        states = encoder(clip[None], torch.tensor([len(clip)])).states
    for layer, state in enumerate(states):
        np.testing.assert_allclose(every.features[-1, layer], state[0].mean(0), atol=1e-5)
