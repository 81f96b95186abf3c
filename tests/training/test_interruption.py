"""Several processes agree on where they stop: all of them at one step, whichever of them a signal came to.

Threads stand for processes here, with a gather that waits for all of them; real processes are in test_processes.py.
"""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import coterie
from coterie.training.interruption import Interrupted, Interruption

STEPS, EVERY = 20, 5


class Together:
    """What accelerate gives several processes: a gather that returns when all have come, with what each brought."""

    device = torch.device("cpu")

    def __init__(self, processes):
        self.num_processes = processes
        self.barrier = threading.Barrier(processes, timeout=5)  # a process that comes alone breaks it
        self.brought = {}

    def gather(self, tensor):
        self.brought[threading.get_ident()] = tensor
        self.barrier.wait()
        found = torch.stack(list(self.brought.values()))
        self.barrier.wait()  # nobody brings the next one before all have read this one
        return found


def steps_until_stopped(accelerator, interruption, signal_after):
    """As the loop asks: after every step, and at once where a row is written."""
    for step in range(1, STEPS + 1):
        if step == signal_after:
            interruption.signal = signal.SIGTERM
        if asked := interruption.requested_signal(accelerator, step % EVERY == 0):
            return step, asked
    return STEPS, 0


@pytest.mark.parametrize("hit", [0, 1, 2])
def test_all_processes_stop_at_the_step_that_they_agree_on(hit):
    accelerator = Together(3)
    with ThreadPoolExecutor(3) as pool:
        futures = [
            pool.submit(steps_until_stopped, accelerator, Interruption(), 7 if number == hit else None)
            for number in range(3)
        ]
        found = [each.result() for each in futures]
    assert found == [(10, signal.SIGTERM)] * 3


def test_processes_without_a_signal_go_on():
    accelerator = Together(2)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(steps_until_stopped, accelerator, Interruption(), None) for _ in range(2)]
        assert [each.result() for each in futures] == [(STEPS, 0)] * 2


def test_one_process_stops_after_the_step():
    assert steps_until_stopped(Together(1), Interruption(), 7) == (7, signal.SIGTERM)


def test_the_loop_agrees_where_rows_are_written_and_between_epochs(small, tmp_path, monkeypatch):
    """Elsewhere it may not ask the others: who is asked must answer, and all count the same steps."""
    asked = []

    def note(self, accelerator, at_once=True):
        asked.append(at_once)
        return 0

    monkeypatch.setattr(Interruption, "requested_signal", note)
    coterie.train(small(training={"epochs": 2, "log_every": 3}), output=tmp_path / "run", quiet=True)
    steps = len(asked) // 2 - 1
    assert steps > 3
    first, second = ([step % 3 == 0 for step in range(start + 1, start + steps + 1)] for start in (0, steps))
    assert asked == [*first, True, *second, True]


def test_a_run_stops_where_others_had_the_signal(small, tmp_path, monkeypatch):
    """What the processes agreed on counts, not the process's own signal."""
    monkeypatch.setattr(
        Interruption, "requested_signal", lambda self, accelerator, at_once=True: at_once and signal.SIGINT
    )
    with pytest.raises(Interrupted) as stopped:
        coterie.train(small(training={"epochs": 2, "log_every": 3}), output=tmp_path / "run", quiet=True)
    assert stopped.value.exit_code == 130
    state = torch.load(tmp_path / "run" / "checkpoint" / "last.pt", weights_only=True)
    assert state["position"]["step"] == 3
