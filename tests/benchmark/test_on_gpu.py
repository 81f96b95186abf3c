"""benchmarks/on_gpu.py at toy size on a CPU: its order, its budget, its going on; and every stage once."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def modules():
    names = {"on_gpu": "benchmarks.on_gpu", "cifar_parts": "benchmarks.images.cifar_parts"}
    return {name: importlib.import_module(module) for name, module in names.items()}


def on_gpu(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.on_gpu", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.slow
def test_a_stage_is_stopped_when_its_time_is_over_and_a_later_call_goes_on(modules, tmp_path, monkeypatch):
    """Stages stand in for the real ones: one ends, one fails, one would take for ever; SIGTERM lets it put its state away."""
    module = modules["on_gpu"]
    slow = "import signal, sys, time; signal.signal(15, lambda *_: (open('put-away', 'w').close(), sys.exit(143))); time.sleep(60)"
    commands = {"quick": "print('did it')", "broken": "raise SystemExit(3)", "slow": slow, "late": "pass"}
    stages = [module.Stage(name, 0.0 if name != "late" else 1e6, f"the {name} one", None) for name in commands]
    monkeypatch.setattr(module, "STAGES", stages)
    monkeypatch.setattr(module, "GRACE", 1.0)
    begun = []
    original = module.run_stage

    def run(command, seconds, log):
        begun.append(command[command.index("--stage") + 1])
        return original([sys.executable, "-c", commands[begun[-1]]], min(seconds, 2.0), log)

    monkeypatch.setattr(module, "run_stage", run)
    monkeypatch.chdir(tmp_path)
    place = module.Place(tmp_path, tmp_path / "out", False)
    started = time.monotonic()
    module.work(place, stages, 40.0, "a machine")
    assert time.monotonic() - started < 40
    assert (tmp_path / "put-away").exists()
    done = json.loads((tmp_path / "out" / "stages.json").read_text())
    assert {name: state["state"].split(":")[0] for name, state in done.items()} == {
        "quick": "done", "broken": "failed with status 3, see broken.log", "slow": "stopped",
    }  # fmt: skip
    assert "did it" in (tmp_path / "out" / "logs" / "quick.log").read_text()
    page = (tmp_path / "out" / "on_gpu.md").read_text()
    assert "| late | the late one | 0 | not begun |" in page
    module.work(place, stages, 40.0, "a machine")
    assert begun == ["quick", "broken", "slow", "broken", "slow"]  # what is done is not done again
    assert json.loads((tmp_path / "out" / "stages.json").read_text())["slow"]["seconds"] > 3


def test_parts_are_small_and_make_the_whole_again(modules, tmp_path):
    generator = np.random.default_rng(0)
    source = tmp_path / "source"
    source.mkdir()
    whole = {}
    for split, count in {"train": 700, "test": 100}.items():
        whole[split] = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 100
        np.savez(source / f"{split}.npz", images=whole[split][0], labels=whole[split][1])
    written = modules["cifar_parts"].pack(source, tmp_path / "parts", limit=1.0)
    assert [path.name for path in written] == ["train_0.npz", "train_1.npz", "train_2.npz", "test_0.npz"]
    assert all(path.stat().st_size < 1.05 * 2**20 for path in written)
    joined = modules["cifar_parts"].join(tmp_path / "parts", tmp_path / "joined")
    for split, (images, labels) in whole.items():
        with np.load(joined / f"{split}.npz") as file:
            found = {(image.tobytes(), int(label)) for image, label in zip(file["images"], file["labels"], strict=True)}
        assert found == {(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}
    assert modules["cifar_parts"].join(source, tmp_path / "unused") == source  # what is whole is taken as it is


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="what needs a GPU is there")
def test_without_a_gpu_it_says_so(tmp_path):
    done = on_gpu("--data", str(tmp_path), "--output", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "no CUDA device here; --tiny" in done.stderr


@pytest.mark.slow
def test_every_stage_at_toy_size(modules, tmp_path):
    done = on_gpu("--tiny", "--budget", "3600", "--output", str(tmp_path))
    logs = "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in sorted((tmp_path / "logs").iterdir()))
    assert done.returncode == 0, done.stderr
    states = {name: state["state"] for name, state in json.loads((tmp_path / "stages.json").read_text()).items()}
    assert states == {stage.name: "done" for stage in modules["on_gpu"].STAGES}, logs
    tables = {path.name for path in (tmp_path / "tables").rglob("*.md")}
    assert {
        "comparison.md",
        "family_anchors.md",
        "concurrent_runs_cpu.md",
        "speed_cpu_modes.md",
        "growth_cpu_batch.md",
    } <= tables
    assert "failed" not in (tmp_path / "tables" / "concurrent_runs_cpu.md").read_text()
    again = on_gpu("--tiny", "--budget", "60", "--output", str(tmp_path))
    assert again.stdout == ""  # nothing is left to do
