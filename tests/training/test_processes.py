"""Two processes on one machine see the same data and arrive at the same network as one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import torch
from safetensors.torch import load_file

# Without BatchNorm, so that the mean gradient over processes is the gradient of the whole batch.
SCRIPT = """
import sys, torch, coterie

def network():
    layers = [torch.nn.Conv2d(1, 6, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(24, 10))

coterie.train(
    data={"name": "digits", "train_limit": 200}, method={"name": "independent"}, network=network,
    training={"epochs": int(sys.argv[2]), "batch_size": 40, "device": "cpu", "log_every": 2},
    overrides=["network.branches=2", "network.at=peers"], output=sys.argv[1], quiet=True,
)
"""


def launch(tmp_path, name, processes, epochs):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    )
    command = [sys.executable, *launcher, str(script), str(tmp_path / name), str(epochs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def test_two_processes_equal_one(tmp_path):
    for name, processes in (("one", 1), ("two", 2)):
        process = launch(tmp_path, name, processes, 2)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    first, second = (load_file(tmp_path / name / "student.safetensors") for name in ("one", "two"))
    for key in first:
        torch.testing.assert_close(first[key], second[key], atol=1e-5, rtol=1e-4)
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    assert (one["num_test"], one["status"]) == (two["num_test"], two["status"])
    # 359 test images do not divide by two: nothing may be counted twice.
    assert abs(one["deployed"]["top1"] - two["deployed"]["top1"]) < 0.004
    assert abs(one["mean_student"]["nll"] - two["mean_student"]["nll"]) < 1e-4
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2


def test_two_processes_stop_at_the_same_step(tmp_path):
    process = launch(tmp_path, "run", 2, 400)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.is_file() and metrics.read_text().count("validation") >= 2):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted", output
    state = torch.load(tmp_path / "run" / "checkpoint" / "last.pt", weights_only=True)
    assert state["position"]["step"] > 0
