"""Two processes arrive at the same encoder as one, though their shares hold unequally many frames."""

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
def test_two_processes_equal_one(tmp_path, save_encoder):
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
    for name, processes in (("one", 1), ("two", 2)):
        script = tmp_path / "script.py"
        script.write_text(TRAIN)
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
    for key in ("distance", "cosine"):
        assert one["deployed"][key] == pytest.approx(two["deployed"][key], abs=1e-4)
    for key in ("probe", "probe_noisy"):
        assert one["deployed"][key] == pytest.approx(two["deployed"][key], abs=0.1)
