"""Captures the forward and backward pass of a training step as a CUDA graph: one launch instead of hundreds of small kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from coterie.data.nested import Inputs, cloned, tensors_of
from coterie.recipe.sections import TrainingRecipe

Compute = Callable[[Inputs, Tensor], None]
WARM_UP = 3  # eager steps of a shape before its capture: libraries choose algorithms, compilers compile
MOST_SHAPES = 8  # captured at most, each with its own memory; batches of other shapes run eagerly
Shapes = tuple[torch.Size, ...]


def is_recorded(settings: TrainingRecipe, accelerator: Accelerator) -> bool:
    """Whether the training step is captured: only on one GPU, in one process, without gradient accumulation. Other setups do work between passes that is not fixed."""
    several = accelerator.num_processes > 1 or settings.shard or settings.accumulate > 1
    plain = not (settings.checkpoint_branches or settings.precision == "fp16")
    return settings.cuda_graph and accelerator.device.type == "cuda" and plain and not several


class CapturedStep:
    """Runs ``compute`` eagerly for the first steps, then captures it once for each batch shape and replays the graphs.

    A graph has one shape and fixed addresses. Each batch is copied into the tensors that the graph reads. The graph writes
    gradients to the memory of its capture, so ``.grad`` is set to those tensors before every replay. Arithmetic and results are
    those of the eager step. Dropout and similar layers use the generator's seed at the time of each replay.

    Args:
        compute: forward and backward pass of a batch. Its only effects must be on tensors that it changes in place, on gradients,
            or on attributes that hold tensors.
        parameters: the parameters whose gradients it computes.
        device: a CUDA device.

    ``failure`` says why a step could not be captured (something in it waits for the host); all steps then run eagerly.
    """

    def __init__(self, compute: Compute, parameters: Iterable[nn.Parameter], device: torch.device) -> None:
        self.compute = compute
        self.parameters = list(parameters)
        self.stream = torch.cuda.Stream(device)
        self.failure: str | None = None
        self.records: dict[Shapes, _Record] = {}
        self._warm: dict[Shapes, int] = {}

    def __call__(self, inputs: Inputs, targets: Tensor) -> None:
        """Computes gradients, and the other effects of ``compute``, for this batch."""
        shapes = tuple(each.shape for each in tensors_of((inputs, targets)))
        if (record := self.records.get(shapes)) is not None:
            record.replay(inputs, targets)
        elif self.failure is not None or (shapes not in self._warm and len(self._warm) == MOST_SHAPES):
            self.compute(inputs, targets)
        elif self._warm.get(shapes, 0) < WARM_UP:
            self._warm[shapes] = self._warm.get(shapes, 0) + 1
            self._on_own_stream(inputs, targets)
        else:
            self._record(shapes, inputs, targets)

    def _on_own_stream(self, inputs: Inputs, targets: Tensor) -> None:
        """Runs the step eagerly, on the separate stream that capture requires."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.compute(inputs, targets)
        torch.cuda.current_stream().wait_stream(self.stream)

    def _record(self, shapes: Shapes, inputs: Inputs, targets: Tensor) -> None:
        """Capture the step and replay it; if capture fails, run the step eagerly and never capture again."""
        kept = cloned(inputs), targets.clone()
        for parameter in self.parameters:
            parameter.grad = None  # capture allocates them where the graph will write them
        graph = torch.cuda.CUDAGraph()
        try:
            # Lets other threads continue: a DataLoader pins memory in a thread, which the default mode forbids during capture.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self.compute(*kept)
        except RuntimeError as error:
            self.failure = str(error).splitlines()[0]
            self.records.clear()
            for parameter in self.parameters:
                parameter.grad = None
            self.compute(inputs, targets)
            return
        gradients = [(each, each.grad) for each in self.parameters if each.grad is not None]
        self.records[shapes] = _Record(graph, *kept, gradients)
        self.records[shapes].replay(inputs, targets)


@dataclass(frozen=True)
class _Record:
    """A captured step: its graph, the tensors from which it reads a batch, and those to which it writes gradients."""

    graph: torch.cuda.CUDAGraph
    inputs: Inputs
    targets: Tensor
    gradients: list[tuple[nn.Parameter, Tensor]]

    def replay(self, inputs: Inputs, targets: Tensor) -> None:
        places, values = tensors_of((self.inputs, self.targets)), tensors_of((inputs, targets))
        for place, value in zip(places, values, strict=True):
            place.copy_(value, non_blocking=True)
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        self.graph.replay()
