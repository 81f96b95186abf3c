"""Two processes arrive at the same encoder as one, though their shares hold unequally many frames."""

from __future__ import annotations

import json

import pytest


@pytest.mark.slow
def test_two_processes_equal_one(save_encoder, by_one_and_two):
    still = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0}
    teachers = [{"network": str(save_encoder(f"two {seed}", seed, **still))} for seed in (1, 2)]
    recipe = {
        "task": "speech",
        "data": {"name": "tones", "train_limit": 24, "test": 0.05, "validation": 0.02, "distortion": "student"},
        "network": {"layers": 1},
        "teachers": teachers,
        "optimizer": {"name": "sgd", "learning_rate": 0.05},
        "training": {"epochs": 2, "batch_size": 4, "accumulate": 2, "device": "cpu", "log_every": 2},
    }
    folders = by_one_and_two(recipe)
    one, two = (json.loads((folder / "summary.json").read_text()) for folder in folders)
    for key in ("distance", "cosine"):
        assert one["deployed"][key] == pytest.approx(two["deployed"][key], abs=1e-4)
    for key in ("probe", "probe_noisy"):
        assert one["deployed"][key] == pytest.approx(two["deployed"][key], abs=0.1)
