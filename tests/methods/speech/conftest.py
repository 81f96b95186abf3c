"""Encoders of a few thousand parameters, untrained."""

from __future__ import annotations

import pytest
import torch

from coterie.methods.speech.encoder import EncoderTeachers, SpeechEncoder

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embedding_groups": 2,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}


@pytest.fixture(scope="session")
def network():
    """``network(kind, seed, **values)`` of transformers, in eval mode."""
    from transformers import AutoConfig, AutoModel

    def build(kind="hubert", seed=0, **values):
        positions = {"conv_pos_kernel_size": 5} if kind == "data2vec-audio" else {"num_conv_pos_embeddings": 8}
        torch.manual_seed(seed)
        return AutoModel.from_config(AutoConfig.for_model(kind, **{**SIZES, **positions, **values})).eval()

    return build


@pytest.fixture(scope="session")
def encoder(network):
    """``encoder(kind, seed, normalize, **values)``."""

    def build(kind="hubert", seed=0, normalize=False, **values):
        return SpeechEncoder(network(kind, seed, **values), normalize, name=f"{kind} {seed}").eval()

    return build


@pytest.fixture
def teachers(encoder):
    """``teachers(*seeds, **values)``."""
    return lambda *seeds, **values: EncoderTeachers([encoder(seed=seed, **values) for seed in seeds])


@pytest.fixture(scope="session")
def clips():
    """A batch of three clips, of 0.5, 0.35 and 0.2 seconds, with rubbish behind them."""
    generator = torch.Generator().manual_seed(0)
    return {"waveforms": torch.randn(3, 8000, generator=generator) * 0.3, "lengths": torch.tensor([8000, 5600, 3200])}
