"""Runs Python-bound work on many files in several processes; threads would run it one after another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from coterie.errors import CoterieError


class _Results(Dataset[Any]):
    """Results by index. A CoterieError is returned as a result, because a DataLoader wraps errors raised in a worker in their traceback."""

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
    """Yields ``function(0)``, ..., ``function(count - 1)``, computed by a DataLoader's worker processes.

    Args:
        function: a picklable function.
        count: number of calls.
        workers: number of processes; None: one per core; 0: this process does the work.

    Raises:
        CoterieError: the function raised it.
    """
    processes = min(count, (os.cpu_count() or 1) if workers is None else workers)
    loader = DataLoader(
        _Results(function, count),
        batch_size=None,
        collate_fn=_as_it_is,  # torch's default converts arrays to tensors
        num_workers=processes if processes > 1 else 0,
        generator=torch.Generator(),  # without it, a DataLoader draws from the global generator
    )
    failure = None
    for result in loader:
        if isinstance(result, CoterieError):
            failure = result
            break
        yield result
    if failure is not None:
        raise failure
