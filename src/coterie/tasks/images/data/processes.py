"""Work on many files by several processes: what is mostly Python, which threads would do one after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from coterie.errors import CoterieError


class _Results(Dataset[Any]):
    """Results by number. What stops the work is a result too: an error that is raised in a worker comes back wrapped in its traceback."""

    def __init__(self, function: Callable[[int], Any], count: int) -> None:
        self.function, self.count = function, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Any:
        try:
            return self.function(number)
        except CoterieError as error:
            return error


def _as_it_is(result: Any) -> Any:
    return result


def by_processes(function: Callable[[int], Any], count: int, workers: int | None) -> Iterator[Any]:
    """``function(0)``, ..., ``function(count - 1)``, computed by torch's worker processes, as training decodes images.

    Args:
        function: can be sent to a process.
        count: how often it is called.
        workers: processes; None: one for each core; 0: this one does the work.

    Raises:
        CoterieError: as the function raises it.
    """
    processes = min(count, (os.cpu_count() or 1) if workers is None else workers)
    loader = DataLoader(
        _Results(function, count),
        batch_size=None,
        collate_fn=_as_it_is,  # torch's own makes tensors of arrays
        num_workers=processes if processes > 1 else 0,
        generator=torch.Generator(),  # without one of its own, a DataLoader takes a number from the global generator
    )
    failure = None
    for result in loader:
        if isinstance(result, CoterieError):
            failure = result
            break
        yield result
    if failure is not None:
        raise failure
