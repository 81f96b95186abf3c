"""Two processes arrive at the same language model as one, though their shares hold unequally many positions."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from coterie.tasks.language.networks import load_causal_lm

TRAIN = """
import json, sys, coterie
coterie.train(json.loads(sys.argv[2]), output=sys.argv[1], quiet=True)
"""


# Few logits are computed at once; many in parts, see test_losses_in_parts.
IN_PARTS = "import coterie.tasks.language.causal_lm as causal_lm; causal_lm.WHOLE_LOGITS = 0"


@pytest.mark.slow
@pytest.mark.parametrize("parts", [False, True])
def test_two_processes_equal_one(tmp_path, trained, parts):
    pairs = [{"prompt": f"number {number}:", "completion": " the cat sat" * (1 + number % 7)} for number in range(45)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    for name, seed in (("student", 0), ("teacher", 1)):
        load_causal_lm({"model_type": "llama", "vocab_size": 300, **sizes}, seed=seed).save_pretrained(tmp_path / name)
        trained.save_pretrained(tmp_path / name)
    recipe = {
        "task": "language_modeling",
        "data": {"name": str(tmp_path / "pairs.jsonl"), "block_length": 64},
        "network": str(tmp_path / "student"),
        "method": {"name": "rlkd", "label_weight": 1.0},
        "teacher": {"network": str(tmp_path / "teacher")},
        "optimizer": {"name": "sgd", "learning_rate": 0.05},
        "training": {"epochs": 2, "batch_size": 4, "accumulate": 2, "device": "cpu", "log_every": 2},
    }
    for name, processes in (("one", 1), ("two", 2)):
        script = tmp_path / "script.py"
        script.write_text(f"{IN_PARTS if parts else ''}\n{TRAIN}")
        several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [sys.executable, *(several if processes > 1 else []), str(script), str(tmp_path / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        found = subprocess.run(
            [*command, json.dumps(recipe)], capture_output=True, text=True, env=environment, timeout=240, check=False
        )
        assert found.returncode == 0, found.stdout + found.stderr
    first, second = (load_file(tmp_path / name / "student.safetensors") for name in ("one", "two"))
    for key in first:
        torch.testing.assert_close(first[key], second[key], atol=1e-5, rtol=1e-4)
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    rows = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    others = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    for own, other in zip(rows, others, strict=True):
        assert (own["split"], own["step"]) == (other["split"], other["step"])
        if own["split"] == "train":
            assert own["losses"] == pytest.approx(other["losses"], rel=1e-4)
    assert one["num_test"] % 2  # nothing may be counted twice
    for key in ("nll", "top1", "cr_1", "mor_3"):
        assert one["deployed"][key] == pytest.approx(two["deployed"][key], abs=0.01)
    assert one["teachers"][0]["nll"] == pytest.approx(two["teachers"][0]["nll"], abs=1e-5)
