"""Pairs of a few words, tiny encoders, and a teacher that was trained for a second; nothing is downloaded."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import pytest

WORDS = ["parser", "socket", "thread", "queue", "matrix", "string", "buffer", "window", "signal", "folder"]
PAIRS = [
    {"query": f"how to join a {a} with the {b}", "document": f"The {b} takes every {a} in turn and returns it at last."}
    for a, b in itertools.permutations(WORDS, 2)
]
SIZES = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
QUICK = {"epochs": 3, "batch_size": 16, "device": "cpu", "log_every": 5}


@pytest.fixture(scope="session")
def pairs():
    return PAIRS


@pytest.fixture(scope="session")
def tokenizer():
    from coterie.tasks.retrieval.tokenizers import train_tokenizer

    return train_tokenizer([text for pair in PAIRS for text in pair.values()], 400)


@pytest.fixture(scope="session")
def tiny_encoder(tokenizer):
    """Builds ``tiny_encoder(seed, **sizes)``."""
    from coterie.networks.hugging_face import config_of
    from coterie.tasks.retrieval.encoders import build_encoder

    def build(seed=0, pooling="mean", **sizes):
        config = config_of({**SIZES, "vocab_size": len(tokenizer), **sizes})
        return build_encoder(config, tokenizer, seed=seed, pooling=pooling)

    return build


@pytest.fixture(scope="session")
def place(tmp_path_factory, tiny_encoder):
    """``path`` with pairs.jsonl, a teacher's and a student's folder; ``settings(**sections)``, a recipe for them."""
    from coterie.tasks.retrieval.encoders import projected

    root = tmp_path_factory.mktemp("retrieval")
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, PAIRS)))
    projected(tiny_encoder(1), None, True, 0).save_pretrained(str(root / "teacher"))
    tiny_encoder(2, hidden_size=16, num_hidden_layers=1).save_pretrained(str(root / "student"))

    def settings(**sections):
        base = {
            "task": "retrieval",
            "data": {"name": str(root / "pairs.jsonl")},
            "network": {"name": str(root / "student"), "pretrained": False},
            "method": {"name": "embed_distill"},
            "teacher": {"network": str(root / "teacher")},
            "optimizer": {"learning_rate": 5e-3},
            "training": QUICK,
        }
        merged = {
            key: {**base.get(key, {}), **value} if isinstance(value, dict) else value
            for key, value in {**base, **sections}.items()
        }
        return {key: value for key, value in merged.items() if value is not None}

    return SimpleNamespace(path=root, settings=settings)
