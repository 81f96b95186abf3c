"""Two processes on one machine see the same data and arrive at the same network as one process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from coterie.student import load_student
from coterie.tasks.images.data.bundle import load_data
from coterie.tasks.images.settings import ImageData

# Without BatchNorm, so that the mean gradient over processes is the gradient of the whole batch.
SCRIPT = """
import sys, torch, coterie

def network():
    layers = [torch.nn.Conv2d(1, 6, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(24, 10))

def train(output, epochs):
    coterie.train(
        data={"name": "digits", "train_limit": 200}, method={"name": "independent"}, network=network,
        training={"epochs": epochs, "batch_size": 40, "device": "cpu", "log_every": 2},
        overrides=["network.branches=2", "network.at=peers"], output=output, quiet=True,
    )

if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]))
"""


# With BatchNorm, and with a policy that no optimizer moves; every process prints what its method ends with.
STATEFUL = """
import os
from coterie.networks.papers.tiny import tiny_cifar
from coterie.training.loop import Trainer

fit, held = Trainer.fit, []

def keeping(self, interruption):
    fit(self, interruption)
    held.append(self.method)

Trainer.fit = keeping
coterie.train(
    data={"name": "digits", "train_limit": 200}, network="tiny_cifar", method={"name": "rl_kd", "warm_up": 0.0},
    teacher=[tiny_cifar(num_classes=10, in_chans=1) for _ in range(2)],
    training={"epochs": 3, "batch_size": 40, "device": "cpu"}, output=sys.argv[3], quiet=True,
)
# In one piece: two processes write to one pipe.
os.write(1, f"policy {float(held[0].policy_weight.abs().sum())} {float(held[0].expected_reward)}\\n".encode())
"""


def launch(tmp_path, epochs, code=SCRIPT, more=()):
    script = tmp_path / "script.py"
    script.write_text(code)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *launcher, str(script), str(tmp_path / "two"), str(epochs), *map(str, more)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def test_two_processes_equal_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    shared |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    processes = [  # as torchrun starts them, which would itself import torch first
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "two"), "2"],
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    own: dict[str, Any] = {"__name__": "script"}
    exec(SCRIPT, own)
    own["train"](tmp_path / "one", 2)
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    they_equal_one(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_two_processes_measure_what_they_save_and_agree_on_a_policy(tmp_path):
    process = launch(tmp_path, 2, SCRIPT + STATEFUL, [tmp_path / "stateful"])
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    what_is_measured_is_what_is_saved_and_a_policy_is_one(tmp_path / "stateful", output)


def they_equal_one(first_path, second_path):
    first, second = (load_file(path / "student.safetensors") for path in (first_path, second_path))
    for key in first:
        torch.testing.assert_close(first[key], second[key], atol=1e-5, rtol=1e-4)
    one, two = (json.loads((path / "summary.json").read_text()) for path in (first_path, second_path))
    assert (one["num_test"], one["status"]) == (two["num_test"], two["status"])
    # 359 test images do not divide by two: nothing may be counted twice.
    assert abs(one["deployed"]["top1"] - two["deployed"]["top1"]) < 0.004
    assert abs(one["mean_student"]["nll"] - two["mean_student"]["nll"]) < 1e-4
    assert json.loads((second_path / "environment.json").read_text())["processes"] == 2


def what_is_measured_is_what_is_saved_and_a_policy_is_one(path, output):
    policies = {line for line in output.splitlines() if line.startswith("policy")}
    assert len(policies) == 1, output
    assert float(policies.pop().split()[1]) > 0
    summary = json.loads((path / "summary.json").read_text())
    logits = load_file(path / "predictions.safetensors")
    network = load_student(path)
    data = load_data(ImageData(name="digits", train_limit=200), batch_size=40, seed=0, device=torch.device("cpu"))
    with torch.no_grad():
        again = torch.cat([network(batch.inputs) for batch in data.test])
    torch.testing.assert_close(again, logits["logits"][0].float(), atol=2e-2, rtol=1e-2)
    top1 = (again.argmax(1) == logits["labels"]).float().mean().item()
    assert abs(top1 - summary["deployed"]["top1"]) < 0.004


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(tmp_path):
    process = launch(tmp_path, 400)
    metrics = tmp_path / "two" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.is_file() and metrics.read_text().count("validation") >= 2):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["status"] == "interrupted", output
    state = torch.load(tmp_path / "two" / "checkpoint" / "last.pt", weights_only=True)
    assert state["position"]["step"] > 0
