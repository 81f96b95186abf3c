"""Teachers that are asked once: the same training as when they look at every batch, and only where that is so."""

from __future__ import annotations

import signal

import pytest
import torch
from safetensors.torch import load_file

import coterie
from coterie.networks.papers.tiny import tiny_cifar
from coterie.networks.teacher import Teacher
from coterie.training.interruption import Interrupted
from coterie.training.loop import Trainer

PLAIN = {"flip": False, "crop_padding": 0}  # every epoch shows the same images
SAMPLES, STEPS, EPOCHS = 70, 2, 2  # batches of 32; the last, incomplete one is dropped


@pytest.fixture
def looks(monkeypatch):
    """How many samples a teacher has looked at."""
    original, seen = Teacher.forward, []

    def counting(self, inputs):
        seen.append(len(inputs))
        return original(self, inputs)

    monkeypatch.setattr(Teacher, "forward", counting)
    return seen


def train(small, path, looks, cache=True, data=PLAIN, compile=False, **changes):
    torch.manual_seed(3)
    teacher = tiny_cifar(num_classes=10, in_chans=1)
    settings = small(
        **{"network": {"branches": None}, "optimizer": {"learning_rate": 0.02}, **changes},
        data={**data, "train_limit": SAMPLES},
        training={"epochs": EPOCHS, "cache_teachers": cache, "evaluate_every": 10, "compile": compile},
    )
    looks.clear()
    result = coterie.train(settings, teacher=teacher, output=path, quiet=True)
    test = result.summary["num_test"]  # the teacher's own figures are measured once
    return load_file(result.path / "student.safetensors"), sum(looks) - test


def trained_on(small, tmp_path, looks, **changes):
    """Samples that the teacher looked at while it taught, beside those of a run that caches nothing."""
    found = [train(small, tmp_path / str(cache), looks, cache, **changes) for cache in (True, False)]
    for name, value in found[1][0].items():
        torch.testing.assert_close(found[0][0][name], value, atol=1e-4, rtol=1e-3)
    return found[0][1], found[1][1]


# One teacher, exits of its own, several teachers; the others differ in their loss alone.
@pytest.mark.fast_for("ofa")
@pytest.mark.parametrize(
    "method", ["kd", "ofa", "rl_kd", *(pytest.param(each, marks=pytest.mark.slow) for each in ("dkd", "dist", "rlkd"))]
)
def test_a_method_that_reads_logits_asks_once(small, tmp_path, looks, method):
    cached, asked = trained_on(small, tmp_path, looks, method=method)
    assert cached - 2 == SAMPLES  # two zeros measure its dimensions
    assert asked - 2 == EPOCHS * STEPS * 32


@pytest.mark.parametrize("views", ["shared", "per_student"])
def test_a_teacher_beside_a_group_is_asked_once(small, tmp_path, looks, views):
    changes = {"method": "okdmde", "network": {"branches": 2}, "data": {**PLAIN, "views": views}}
    cached, asked = trained_on(small, tmp_path, looks, **changes)
    assert cached - 2 == SAMPLES
    assert asked - 2 == EPOCHS * STEPS * 32 * (2 if views == "per_student" else 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "kd", "data": {"flip": False, "crop_padding": 1}},
        {"method": "kd", "data": {**PLAIN, "flip": True}},
        {"method": "kd", "data": {**PLAIN, "cutout": 2}},
        {"method": "kd", "data": {**PLAIN, "mixup": 0.5}},
        {"method": "stkd"},
        {"method": "fitnet"},
    ],
    ids=["crop", "flip", "cutout", "mixup", "stkd", "fitnet"],
)
def test_where_samples_or_features_change_it_looks_every_time(small, tmp_path, looks, changes):
    _, seen = train(small, tmp_path, looks, **changes)
    assert seen - 2 >= EPOCHS * STEPS * 32


@pytest.mark.slow
def test_a_compiled_step_remembers_too_and_is_compiled_once(small, tmp_path, looks, monkeypatch):
    original, compiled = torch.compile, []

    def counting(graph, examples):
        compiled.append(graph)
        return graph.forward

    plain, _ = train(small, tmp_path / "plain", looks, method="kd")
    monkeypatch.setattr(torch, "compile", lambda module, **_: original(module, backend=counting, fullgraph=True))
    torch._dynamo.reset()
    found, seen = train(small, tmp_path / "compiled", looks, method="kd", compile=True)
    assert seen - 2 == SAMPLES
    assert len(compiled) == 1
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


def test_a_run_that_is_gone_on_with_in_its_last_epoch_remembers_too(small, tmp_path, looks, monkeypatch):
    def settings():
        return small(
            method="kd", network={"branches": None}, data={**PLAIN, "train_limit": SAMPLES}, training={"batch_size": 8}
        )

    def teacher():
        torch.manual_seed(3)
        return tiny_cifar(num_classes=10, in_chans=1)

    whole = coterie.train(settings(), teacher=teacher(), output=tmp_path / "whole", quiet=True)
    original = Trainer.train_batch

    def interrupting(self, *args):
        original(self, *args)
        if self.step == 12:  # of 16: in the second and last epoch
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "train_batch", interrupting)
    with pytest.raises(Interrupted):
        coterie.train(settings(), teacher=teacher(), output=tmp_path / "run", quiet=True)
    monkeypatch.setattr(Trainer, "train_batch", original)
    looks.clear()
    coterie.train(settings(), teacher=teacher(), output=tmp_path / "run", resume=True, quiet=True)
    assert sum(looks) - whole.summary["num_test"] - 2 == SAMPLES
    for name, value in load_file(whole.path / "student.safetensors").items():
        assert torch.equal(load_file(tmp_path / "run" / "student.safetensors")[name], value), name
