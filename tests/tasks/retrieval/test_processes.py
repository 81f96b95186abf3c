"""Two processes arrive at the same encoder as one: their in-batch losses see the documents of the whole batch."""

from __future__ import annotations

import json

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("documents", ["student", "teacher"])
def test_two_processes_equal_one(documents, place, tiny_encoder, tmp_path, by_one_and_two):
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    still["initializer_range"] = 0.3  # vectors far enough apart that the last digits of a sum decide no rank
    tiny_encoder(2, hidden_size=16, num_hidden_layers=1, **still).save_pretrained(str(tmp_path / "student"))
    rows = (place.path / "pairs.jsonl").read_text().splitlines()
    negatives = [json.loads(row)["document"] for row in rows]
    pairs = [{**json.loads(row), "negatives": negatives[number - 7]} for number, row in enumerate(rows)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    recipe = place.settings(
        data={"name": str(tmp_path / "pairs.jsonl"), "pseudo_queries": 0.5, "train_limit": 48},
        network={"name": str(tmp_path / "student"), "documents": documents, "pretrained": True},
        optimizer={"name": "sgd", "learning_rate": 0.05},
        training={"epochs": 2, "batch_size": 8, "accumulate": 2, "device": "cpu", "log_every": 2},
    )
    folders = by_one_and_two(recipe)
    one, two = (json.loads((folder / "summary.json").read_text()) for folder in folders)
    for key in ("mrr_10", "ndcg_10", "recall_20", "map_100", "kept"):
        assert one["deployed"][key] == pytest.approx(two["deployed"][key], abs=0.01)
    assert one["teachers"][0]["mrr_10"] == pytest.approx(two["teachers"][0]["mrr_10"], abs=1e-6)
    lines = [[json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()] for folder in folders]  # fmt: skip
    recorded = [[row["losses"] for row in each if row["split"] == "train"] for each in lines]
    for ours, theirs in zip(*recorded, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
