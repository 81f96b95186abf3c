"""A training step's forward and backward pass as one CUDA graph: hundreds of small kernels for the price of one launch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs, cloned, tensors_of

Compute = Callable[[Inputs, Tensor], None]
WARM_UP = 3  # steps that run as they are: libraries choose algorithms, compilers compile


class CapturedStep:
    """Runs ``compute`` as it is for the first steps, then records it once and replays the record.

    The record is of one shape and of fixed addresses: batches are copied to where it reads them, and it leaves gradients where it
    wrote them when it was recorded, so they are put back before every replay. The arithmetic, and with it the results, are those
    of the step as it is. Drop-out and the like draw from the generator's seed as it stands at each replay.

    Args:
        compute: forward and backward pass of a batch. All that it leaves behind must stand in tensors that it changes in place,
            in gradients, or in attributes that hold tensors.
        parameters: whose gradients it computes.
        device: a CUDA device.

    ``failure`` says why a step could not be recorded (something in it waits for the host); it then runs as it is.
    """

    def __init__(self, compute: Compute, parameters: Iterable[nn.Parameter], device: torch.device) -> None:
        self.compute = compute
        self.parameters = list(parameters)
        self.stream = torch.cuda.Stream(device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.failure: str | None = None
        self._warm = 0
        self._inputs: Inputs = None
        self._targets: Tensor | None = None
        self._gradients: list[tuple[nn.Parameter, Tensor]] = []

    def __call__(self, inputs: Inputs, targets: Tensor) -> None:
        """Gradients and whatever else ``compute`` leaves, for this batch."""
        if self.failure is not None or (self.graph is not None and not self._fits(inputs, targets)):
            self.compute(inputs, targets)
        elif self._warm < WARM_UP:
            self._warm += 1
            self._aside(inputs, targets)
        else:
            if self.graph is None:
                self._record(inputs, targets)
            if self.graph is None:
                self.compute(inputs, targets)
            else:
                self._replay(inputs, targets)

    def _fits(self, inputs: Inputs, targets: Tensor) -> bool:
        ours, theirs = (tensors_of((each, goal)) for each, goal in ((self._inputs, self._targets), (inputs, targets)))
        return [each.shape for each in ours] == [each.shape for each in theirs]

    def _aside(self, inputs: Inputs, targets: Tensor) -> None:
        """As it is, on the stream of its own that recording asks for."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.compute(inputs, targets)
        torch.cuda.current_stream().wait_stream(self.stream)

    def _record(self, inputs: Inputs, targets: Tensor) -> None:
        self._inputs, self._targets = cloned(inputs), targets.clone()
        for parameter in self.parameters:
            parameter.grad = None  # the record allocates them where it will write them
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may go on: a DataLoader pins memory in one, which the default mode forbids while a graph is recorded.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self.compute(self._inputs, self._targets)
        except RuntimeError as error:
            self.failure = str(error).splitlines()[0]
            for parameter in self.parameters:
                parameter.grad = None
            return
        self.graph = graph
        self._gradients = [(each, each.grad) for each in self.parameters if each.grad is not None]

    def _replay(self, inputs: Inputs, targets: Tensor) -> None:
        assert self.graph is not None
        assert self._targets is not None
        for place, values in zip(tensors_of(self._inputs), tensors_of(inputs), strict=True):
            place.copy_(values, non_blocking=True)
        self._targets.copy_(targets, non_blocking=True)
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        self.graph.replay()
