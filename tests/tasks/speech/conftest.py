"""Audio that the tests write themselves, and encoders of a few thousand parameters; nothing is downloaded."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

# As HuBERT's, with narrow layers: the same strides, so that a frame is 20 ms.
TINY = {
    "model_type": "hubert",
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.05,
    "layerdrop": 0.1,
}


@pytest.fixture(scope="session")
def tiny():
    """Values of a tiny encoder's configuration, with changes."""
    return lambda **changes: {**TINY, **changes}


@pytest.fixture(scope="session")
def save_encoder(tmp_path_factory):
    """``save_encoder(name, seed, normalize, **values)``: an untrained encoder in a folder of that name, with its feature extractor."""
    from transformers import AutoConfig, AutoModel

    root = tmp_path_factory.mktemp("encoders")

    def save(name, seed=0, normalize=True, extractor=True, **values):
        folder = root / name
        torch.manual_seed(seed)
        AutoModel.from_config(AutoConfig.for_model(**{**TINY, **values})).save_pretrained(folder)
        if extractor:
            described = {"do_normalize": normalize, "sampling_rate": 16000, "feature_size": 1, "padding_value": 0.0}
            described |= {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "return_attention_mask": False}
            (folder / "preprocessor_config.json").write_text(json.dumps(described))
        return folder

    return save


@pytest.fixture(scope="session")
def tone():
    """``tone(seconds, rate, pitch)``: a hum of that pitch, float32."""

    def make(seconds, rate=16000, pitch=200.0):
        return (0.3 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)).astype(np.float32)

    return make
