"""A training step's forward and backward pass as one CUDA graph: hundreds of small kernels for the price of one launch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from coterie.data.nested import Inputs, cloned, tensors_of
from coterie.recipe.sections import TrainingRecipe

Compute = Callable[[Inputs, Tensor], None]
WARM_UP = 3  # steps of a shape that run as they are: libraries choose algorithms, compilers compile
MOST_SHAPES = 8  # that are recorded, each in memory of its own; batches of further ones run as they are
Shapes = tuple[torch.Size, ...]


def is_recorded(settings: TrainingRecipe, accelerator: Accelerator) -> bool:
    """Whether a training's step is recorded: on a GPU, where one process trains on whole batches. What others do between passes is not fixed."""
    several = accelerator.num_processes > 1 or settings.shard or settings.accumulate > 1
    plain = not (settings.checkpoint_branches or settings.precision == "fp16")
    return settings.cuda_graph and accelerator.device.type == "cuda" and plain and not several


class CapturedStep:
    """Runs ``compute`` as it is for the first steps, then records it once for each shape of batches, and replays the records.

    A record is of one shape and of fixed addresses: batches are copied to where it reads them, and it leaves gradients where it
    wrote them when it was recorded, so they are put back before every replay. The arithmetic, and with it the results, are those
    of the step as it is. Drop-out and the like draw from the generator's seed as it stands at each replay.

    Args:
        compute: forward and backward pass of a batch. All that it leaves behind must stand in tensors that it changes in place,
            in gradients, or in attributes that hold tensors.
        parameters: whose gradients it computes.
        device: a CUDA device.

    ``failure`` says why a step could not be recorded (something in it waits for the host); all then run as they are.
    """

    def __init__(self, compute: Compute, parameters: Iterable[nn.Parameter], device: torch.device) -> None:
        self.compute = compute
        self.parameters = list(parameters)
        self.stream = torch.cuda.Stream(device)
        self.failure: str | None = None
        self.records: dict[Shapes, _Record] = {}
        self._warm: dict[Shapes, int] = {}

    def __call__(self, inputs: Inputs, targets: Tensor) -> None:
        """Gradients and whatever else ``compute`` leaves, for this batch."""
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
        """As it is, on the stream of its own that recording asks for."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.compute(inputs, targets)
        torch.cuda.current_stream().wait_stream(self.stream)

    def _record(self, shapes: Shapes, inputs: Inputs, targets: Tensor) -> None:
        """Record the step and run it; where that fails, run it as it is, and record no more."""
        kept = cloned(inputs), targets.clone()
        for parameter in self.parameters:
            parameter.grad = None  # the record allocates them where it will write them
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may go on: a DataLoader pins memory in one, which the default mode forbids while a graph is recorded.
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
    """A recorded step: the places that it reads a batch from, and those that it leaves gradients in."""

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
