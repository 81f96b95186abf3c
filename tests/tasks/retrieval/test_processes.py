"""Two processes arrive at the same encoder as one: their in-batch losses see the documents of the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

TRAIN = """
import json, sys, coterie
coterie.train(json.loads(sys.argv[2]), output=sys.argv[1], quiet=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("documents", ["student", "teacher"])
def test_two_processes_equal_one(documents, place, tiny_encoder, tmp_path):
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
    for name, processes in (("one", 1), ("two", 2)):
        script = tmp_path / "script.py"
        script.write_text(TRAIN)
        several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [sys.executable, *(several if processes > 1 else []), str(script), str(tmp_path / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        found = subprocess.run(
            [*command, json.dumps(recipe)], capture_output=True, text=True, env=environment, timeout=400, check=False
        )
        assert found.returncode == 0, found.stdout + found.stderr
    first, second = (load_file(tmp_path / name / "student.safetensors") for name in ("one", "two"))
    for key in first:
        torch.testing.assert_close(first[key], second[key], atol=1e-5, rtol=1e-4)
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    for key in ("mrr_10", "ndcg_10", "recall_20", "map_100", "kept"):
        assert one["deployed"][key] == pytest.approx(two["deployed"][key], abs=0.01)
    assert one["teachers"][0]["mrr_10"] == pytest.approx(two["teachers"][0]["mrr_10"], abs=1e-6)
    lines = [[json.loads(row) for row in (tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in ("one", "two")]  # fmt: skip
    recorded = [[row["losses"] for row in each if row["split"] == "train"] for each in lines]
    for ours, theirs in zip(*recorded, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
