"""Methods that remember more than weights: moving averages, adversaries, policies, what validation taught them."""

from __future__ import annotations

import json
import signal

import pytest
import torch

import coterie
from coterie.errors import CoterieError
from coterie.run_folder import RunFolder
from coterie.running.reload import evaluate_run
from coterie.training.checkpoint import load_checkpoint
from coterie.training.interruption import Interrupted
from coterie.training.loop import Trainer

METHODS = {
    "pcl": {"method": "pcl"},
    "afd": {"method": "afd"},
    "okdph": {"method": "okdph"},
    "kdcl": {"method": {"name": "kdcl", "target": "general"}},
    "rl_kd": {"method": {"name": "rl_kd", "warm_up": 0.0}, "network": {"branches": None}},
    "diffkd": {"method": "diffkd", "network": {"branches": None}},
}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Two finished runs to learn from."""
    paths = [tmp_path_factory.mktemp("teachers") / str(seed) for seed in (0, 1)]
    for seed, path in enumerate(paths):
        settings = {"data": {"name": "digits", "train_limit": 200}, "network": "tiny_cifar", "method": "baseline"}
        coterie.train(settings, seed=seed, training={"epochs": 2, "batch_size": 32}, output=path, quiet=True)
    return paths


def everything(path) -> dict[str, torch.Tensor]:
    """All tensors of the last checkpoint by name."""
    found = {}

    def walk(value, name):
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{name}.{key}")
        elif isinstance(value, (list, tuple)):
            for number, item in enumerate(value):
                walk(item, f"{name}.{number}")

    walk(load_checkpoint(RunFolder(path).last), "")
    return found


@pytest.mark.fast_for("rl_kd")
@pytest.mark.parametrize("name", METHODS)
def test_an_interrupted_run_goes_on_bit_by_bit(small, teachers, tmp_path, monkeypatch, name):
    changes = dict(METHODS[name])
    if name == "rl_kd":
        changes["teachers"] = [str(path) for path in teachers]
    if name == "diffkd":
        changes["teacher"] = {"run": str(teachers[0])}
    settings = small(**changes, data={"train_limit": 100}, training={"log_every": 1})
    whole = coterie.train(settings, output=tmp_path / "whole", quiet=True)
    original, calls = Trainer.train_batch, []

    def interrupting(self, *args):
        original(self, *args)
        calls.append(1)
        if len(calls) == 4:  # in the second epoch
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "train_batch", interrupting)
    with pytest.raises(Interrupted):
        coterie.train(settings, output=tmp_path / "run", quiet=True)
    monkeypatch.undo()
    resumed = coterie.train(settings, output=tmp_path / "run", resume=True, quiet=True)
    first, second = everything(whole.path), everything(resumed.path)
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key
    assert whole.summary["students"] == resumed.summary["students"]
    # What is loaded again says what the run said, the method's own ensemble included.
    _, again = evaluate_run(whole.path)
    assert again.figures["ensemble"]["method"] == whole.summary["ensemble"]["method"]
    assert again.figures["students"] == whole.summary["students"]


def test_teachers_are_in_the_summary_and_in_no_checkpoint(small, teachers, tmp_path):
    settings = small(method="okdmde", teacher=str(teachers[0]), training={"epochs": 1})
    run = coterie.train(settings, output=tmp_path / "run", quiet=True)
    (note,) = run.summary["teachers"]
    assert note["source"] == str(teachers[0])
    own = json.loads((teachers[0] / "summary.json").read_text())["deployed"]["top1"]
    assert note["top1"] == pytest.approx(own, abs=1e-6)  # the same network on the same split
    assert len(note["sha256"]) == 64
    alone = coterie.train(small(method="okdmde", training={"epochs": 1}), output=tmp_path / "alone", quiet=True)
    assert everything(run.path).keys() == everything(alone.path).keys()
    assert run.summary["parameters"] == alone.summary["parameters"]


def test_a_validation_split_is_asked_for(small, tmp_path):
    settings = small(method={"name": "kdcl", "target": "general"}, data={"validation": 0})
    with pytest.raises(CoterieError, match=r"set data\.validation"):
        coterie.train(settings, output=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_float16_and_optimizers_of_ones_own_do_not_go_together(small, tmp_path):
    with pytest.raises(CoterieError, match="use bf16 or fp32"):
        coterie.train(small(method="afd", training={"precision": "fp16"}), output=tmp_path / "run", quiet=True)
