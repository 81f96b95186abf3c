"""Real kills: a run in a process of its own dies by SIGKILL at a chosen point, and is resumed.

The same points are tried in the test's own process, where nothing may catch what ends the training; one of the real kills is quick enough
to be tried every time, the one that leaves half a file.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import coterie

# Runs one training and kills itself at the nth call of a function: no timing, hence no luck.
SCRIPT = """
import importlib, json, os, signal, sys
settings, output, (module, owner, name), number = json.loads(sys.argv[1])
import coterie
place = importlib.import_module(module)
place = getattr(place, owner) if owner else place
original, calls = getattr(place, name), []
def dying(*args, **kwargs):
    calls.append(1)
    if len(calls) == number:
        if name == "save":            # die in the middle of writing a checkpoint's bytes
            import torch
            whole = torch.save
            def half(state, stream):
                whole(state, stream)
                stream.file.flush()
                stream.file.truncate(stream.file.tell() // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            torch.save = half
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
setattr(place, name, dying)
coterie.train(settings, output=output, quiet=True)
"""

POINTS = {
    "before the first checkpoint": (("coterie.training.loop", "Trainer", "_optimizer_step"), 3),
    "during a step of the second epoch": (("coterie.training.loop", "Trainer", "_optimizer_step"), 9),
    "while the first checkpoint is written": (("coterie.training.loop", "Trainer", "save"), 1),
    "while a later checkpoint is written": (("coterie.training.loop", "Trainer", "save"), 4),
    "during an evaluation": (("coterie.tasks.group_figures", "GroupSums", "compute"), 2),
    "during the last evaluation, on test": (("coterie.tasks.group_figures", "GroupSums", "compute"), 4),
}


def run_until(settings, output, point, number):
    """In a process of its own, which dies; what is compared with it runs here, with as many threads."""
    arguments = json.dumps([settings, str(output), point, number])
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )


@pytest.fixture(scope="module")
def settings():
    return {
        "data": {"name": "digits", "train_limit": 200},
        "network": {"name": "tiny_cifar", "branches": 2},
        "training": {"epochs": 3, "batch_size": 32, "log_every": 2, "device": "cpu", "checkpoint_steps": 4},
    }


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    coterie.train(settings, output=path, quiet=True)
    return path


def comparable(path):
    summary = json.loads((path / "summary.json").read_text())
    return {key: value for key, value in summary.items() if key not in {"seconds", "images_per_second"}}


@pytest.mark.slow
@pytest.mark.parametrize("name", POINTS)
def test_a_killed_run_resumes_to_the_same_bits(settings, whole, tmp_path, name):
    point, number = POINTS[name]
    path = tmp_path / "run"
    killed = run_until(settings, path, point, number)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumes_to_the_same_bits(settings, whole, path)


class Killed(BaseException):
    """Nothing in the code may catch it, as nothing can catch a kill."""


@pytest.mark.fast_for("during an evaluation")
@pytest.mark.parametrize("name", POINTS)
def test_what_ends_a_run_without_a_word_costs_it_nothing(settings, whole, tmp_path, monkeypatch, name):
    (module, owner, function), number = POINTS[name]
    place = importlib.import_module(module)
    place = getattr(place, owner) if owner else place
    original, calls = getattr(place, function), []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(place, function, dying)
    with pytest.raises(Killed):
        coterie.train(settings, output=tmp_path / "run", quiet=True)
    monkeypatch.undo()
    resumes_to_the_same_bits(settings, whole, tmp_path / "run")


def resumes_to_the_same_bits(settings, whole, path):
    assert json.loads((path / "summary.json").read_text())["status"] == "running"
    coterie.train(settings, output=path, resume=True, quiet=True)
    first, second = load_file(whole / "student.safetensors"), load_file(path / "student.safetensors")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert (path / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert comparable(path) == comparable(whole)
    assert not list(path.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_signals_finish_the_step_and_exit_with_their_code(tmp_path, number, code):
    path = tmp_path / "run"
    command = [
        sys.executable, "-m", "coterie", "train", "training.epochs=500", "network.branches=2", "training.device=cpu", "--output", str(path),
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:  # the first epoch is done
        if line.startswith("epoch 1/"):
            break
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert json.loads((path / "summary.json").read_text())["status"] == "interrupted"
    assert (path / "checkpoint" / "last.pt").is_file()
    assert (path / "metrics.jsonl").is_file()
