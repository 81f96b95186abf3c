"""The task of docs/add-a-task.md is a task like any other: what a kill leaves of its run goes on bit by bit."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import coterie
import coterie.tasks
from coterie.training.loop import Trainer

PAGE = Path(__file__).parents[2] / "docs" / "add-a-task.md"
SETTINGS = {
    "task": "tables",
    "method": "independent",
    "training": {"epochs": 3, "batch_size": 32, "device": "cpu", "log_every": 2, "checkpoint_steps": 4},
}


class Killed(BaseException):
    """Nothing in the code may catch it, as nothing can catch a kill."""


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """The page's module, known under the name that the page gives it; afterwards unknown again."""
    block = next(each for each in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "TASKS[" in each)
    (tmp_path / "tables.py").write_text(block)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(coterie.tasks, "TASKS", dict(coterie.tasks.TASKS))
    return importlib.import_module("tables")


def left(path):
    summary = json.loads((path / "summary.json").read_text())
    timeless = {key: value for key, value in summary.items() if key not in {"seconds", "images_per_second"}}
    return timeless, (path / "metrics.jsonl").read_text(), load_file(path / "student.safetensors")


@pytest.mark.fast_for("trainer-_optimizer_step-3", "task-evaluate-2")
@pytest.mark.parametrize(
    ("place", "name", "number"),
    [
        ("trainer", "_optimizer_step", 3),  # before the first checkpoint
        ("trainer", "_optimizer_step", 14),  # in the midst of the second epoch
        ("trainer", "save", 3),
        ("task", "evaluate", 2),  # on validation, after the second epoch
        ("task", "evaluate", 4),  # on test
    ],
)
def test_a_killed_run_goes_on_to_the_same_bits(tables, tmp_path, monkeypatch, place, name, number):
    coterie.train(SETTINGS, output=tmp_path / "whole", quiet=True)
    owner = {"trainer": Trainer, "task": tables.Regression}[place]
    original, calls = getattr(owner, name), []

    def dying(*args):
        calls.append(name)
        if len(calls) == number:
            raise Killed
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying)
        with pytest.raises(Killed):
            coterie.train(SETTINGS, output=tmp_path / "killed", quiet=True)
    coterie.train(SETTINGS, output=tmp_path / "killed", resume=True, quiet=True)
    (summary, metrics, weights), (expected, expected_metrics, expected_weights) = (
        left(tmp_path / each) for each in ("killed", "whole")
    )
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[key], expected_weights[key]) for key in weights)
    assert metrics == expected_metrics
    assert summary == expected
    assert coterie.evaluate_run(tmp_path / "killed")[1].figures["deployed"] == expected["deployed"]
