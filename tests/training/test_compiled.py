"""Whole trainings compiled by inductor: the result of the step as it is, moving average and resume included."""

from __future__ import annotations

import signal

import pytest
import torch

import coterie
from coterie.training.checkpoint import load_checkpoint
from coterie.training.interruption import Interrupted
from coterie.training.loop import Trainer


def weights(path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(path / "checkpoint" / "last.pt")
    return {**state["method"], **{f"ema.{name}": value for name, value in state["ema"].items()}}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["okdmde", "kdcl"])
def test_a_compiled_training_is_the_training_and_resumes(small, method, tmp_path, monkeypatch):
    def settings(compile: bool):
        return small(method=method, training={"ema": 0.9, "compile": compile}, optimizer={"learning_rate": 0.01})

    coterie.train(settings(False), output=tmp_path / "plain", quiet=True)
    coterie.train(settings(True), output=tmp_path / "compiled", quiet=True)
    expected, found = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-3, rtol=1e-2, msg=lambda m, n=name: f"{n}: {m}")

    original = Trainer.train_batch

    def interrupting(self, *args):
        original(self, *args)
        if self.step == 7:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "train_batch", interrupting)
    with pytest.raises(Interrupted):
        coterie.train(settings(True), output=tmp_path / "parts", quiet=True)
    monkeypatch.setattr(Trainer, "train_batch", original)
    coterie.train(output=tmp_path / "parts", resume=True, quiet=True)
    resumed = weights(tmp_path / "parts")
    for name in found:
        assert torch.equal(resumed[name], found[name]), name
