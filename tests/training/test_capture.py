"""The bookkeeping of recorded steps, with a recorder that needs no GPU: it remembers what it saw computed, and computes it again."""

from __future__ import annotations

import contextlib

import pytest
import torch

from coterie.training import capture
from coterie.training.capture import MOST_SHAPES, WARM_UP, CapturedStep


class Recorder:
    """Stands for torch.cuda: the ``compute`` of a record is run anew on the record's own tensors, gradients written in place."""

    def __init__(self, fails=False) -> None:
        self.recording = None
        self.replays = 0
        self.fails = fails

    def install(self, monkeypatch) -> None:
        recorder = self

        class Graph:
            call = None

            def replay(self):
                recorder.replays += 1
                kept = [(parameter, parameter.grad) for parameter in recorder.parameters]
                for parameter, _ in kept:
                    parameter.grad = None
                recorder.compute(*self.call)
                for parameter, place in kept:
                    place.copy_(parameter.grad)
                    parameter.grad = place

        @contextlib.contextmanager
        def graph(record, **_):
            if recorder.fails:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
            recorder.recording = record
            yield
            recorder.recording = None

        class Stream:
            def __init__(self, *_):
                pass

            def wait_stream(self, _):
                pass

        for name, value in {"Stream": Stream, "current_stream": Stream, "CUDAGraph": Graph, "graph": graph}.items():
            monkeypatch.setattr(capture.torch.cuda, name, value)
        monkeypatch.setattr(capture.torch.cuda, "stream", lambda _: contextlib.nullcontext())


def a_step(recorder):
    weight = torch.nn.Parameter(torch.ones(3))

    def compute(inputs, targets):
        if recorder.recording is not None:
            recorder.recording.call = (inputs, targets)
        ((inputs["a"] * weight).sum() - targets.sum()).square().backward()

    recorder.compute, recorder.parameters = compute, [weight]
    return weight, CapturedStep(compute, [weight], torch.device("cpu"))


def batch(size, seed):
    generator = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(size, 3, generator=generator)}, torch.randn(size, generator=generator)


def gradients_of(weight, step, sizes):
    found = []
    for seed, size in enumerate(sizes):
        step(*batch(size, seed))
        found.append(weight.grad.clone())
        weight.grad = None
    return found


@pytest.mark.parametrize("fails", [False, True])
def test_every_shape_has_its_record_and_gradients_are_those_of_the_step(monkeypatch, fails):
    recorder = Recorder(fails)
    recorder.install(monkeypatch)
    weight, step = a_step(recorder)
    sizes = [2, 4] * (WARM_UP + 3)
    found = gradients_of(weight, step, sizes)
    for seed, (size, gradient) in enumerate(zip(sizes, found, strict=True)):
        recorder.compute(*batch(size, seed))
        torch.testing.assert_close(gradient, weight.grad)
        weight.grad = None
    assert (step.failure is not None) == fails
    assert len(step.records) == (0 if fails else 2)
    assert recorder.replays == (0 if fails else 6)


def test_shapes_beyond_the_most_run_as_they_are(monkeypatch):
    recorder = Recorder()
    recorder.install(monkeypatch)
    weight, step = a_step(recorder)
    sizes = [size for size in range(1, MOST_SHAPES + 4) for _ in range(WARM_UP + 2)]
    found = gradients_of(weight, step, sizes)
    assert len(step.records) == MOST_SHAPES
    assert recorder.replays == 2 * MOST_SHAPES
    recorder.compute(*batch(sizes[-1], len(sizes) - 1))
    torch.testing.assert_close(found[-1], weight.grad)
