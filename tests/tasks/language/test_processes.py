"""Two processes arrive at the same language model as one, though their shares hold unequally many positions."""

from __future__ import annotations

import json

import pytest

from coterie.tasks.language.networks import load_causal_lm

# Few logits are computed at once; many in parts, see test_losses_in_parts.
IN_PARTS = "import coterie.tasks.language.causal_lm as causal_lm; causal_lm.WHOLE_LOGITS = 0"


@pytest.mark.slow
@pytest.mark.parametrize("parts", [False, True])
def test_two_processes_equal_one(tmp_path, trained, parts, by_one_and_two):
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
    folders = by_one_and_two(recipe, IN_PARTS if parts else "")
    one, two = (json.loads((folder / "summary.json").read_text()) for folder in folders)
    rows = [json.loads(line) for line in (folders[0] / "metrics.jsonl").read_text().splitlines()]
    others = [json.loads(line) for line in (folders[1] / "metrics.jsonl").read_text().splitlines()]
    for own, other in zip(rows, others, strict=True):
        assert (own["split"], own["step"]) == (other["split"], other["step"])
        if own["split"] == "train":
            assert own["losses"] == pytest.approx(other["losses"], rel=1e-4)
    assert one["num_test"] % 2  # nothing may be counted twice
    for key in ("nll", "top1", "cr_1", "mor_3"):
        assert one["deployed"][key] == pytest.approx(two["deployed"][key], abs=0.01)
    assert one["teachers"][0]["nll"] == pytest.approx(two["teachers"][0]["nll"], abs=1e-5)
