"""What is recorded of loss terms: means over all that batches hold, of every process, and the first step that was not finite."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from coterie.training.loss_record import LossRecord


class Processes:
    """Stands for an accelerator whose processes hold these records."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.records: list[LossRecord] = []

    def reduce(self, _, how):
        assert how == "mean"
        return torch.stack([record.sums for record in self.records]).mean(0)

    def gather(self, _):
        return torch.cat([record.first_bad[None] for record in self.records])


def alone() -> Any:
    return SimpleNamespace(device=torch.device("cpu"), reduce=lambda value, how: value, gather=lambda value: value)


def add(record: LossRecord, loss: float, step: int = 0, weight: float = 1.0) -> None:
    record.add({"label": torch.tensor(loss)}, torch.tensor(float(step)), weight)
    record.count += 1


def test_batches_count_by_what_they_hold_over_processes():
    processes: Any = Processes()
    first, second = processes.records = [LossRecord(processes), LossRecord(processes)]
    # 30 positions of loss 1 and 10 of loss 5, then 20 of loss 2 and 20 of loss 4: the means of these steps are 2 and 3.
    for record, losses, weights in ((first, (1.0, 2.0), (1.5, 1.0)), (second, (5.0, 4.0), (0.5, 1.0))):
        for loss, weight in zip(losses, weights, strict=True):
            add(record, loss, weight=weight)
    assert first.read() == {"label": pytest.approx(2.5)}


def test_batches_that_are_added_up_before_a_step_count_by_what_they_hold():
    record = LossRecord(alone())
    add(record, 1.0, weight=1.5)
    add(record, 5.0, weight=0.5)
    assert record.read() == {"label": pytest.approx(2.0)}
    assert record.read() is None


def test_a_term_that_was_not_finite_is_found_whatever_its_batch_weighs():
    record = LossRecord(alone())
    add(record, 1.0, step=6)
    add(record, float("inf"), step=7, weight=0.0)
    assert record.not_finite() == (7, "label")
