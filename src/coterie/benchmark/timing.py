"""Clocks: how long something takes on a device, in interleaved repetitions, so that a busy machine slows all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

LEAST_SECONDS = 0.3  # of one repetition


class Timing(NamedTuple):
    """Seconds of one call: median over repetitions, and the quartiles."""

    median: float
    low: float
    high: float


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds(call: Callable[[], object], times: int, device: torch.device) -> float:
    """Seconds of one of ``times`` calls in a row, until the device is done."""
    synchronise(device)
    started = time.perf_counter()
    for _ in range(times):
        call()
    synchronise(device)
    return (time.perf_counter() - started) / times


def interleaved(
    calls: Mapping[str, Callable[[], object]], device: torch.device, repetitions: int = 7, least: float = LEAST_SECONDS
) -> dict[str, Timing]:
    """Time several calls in turn, again and again.

    Each is warmed up twice first (compilation, caches, page faults), and repeated within a repetition until that takes ``least`` seconds.

    Args:
        calls: what is timed, by name.
        device: whose work they are.
        repetitions: rounds over all calls.
        least: seconds.
    """
    counts = {}
    for name, call in calls.items():
        seconds(call, 2, device)
        counts[name] = max(1, round(least / max(1e-9, seconds(call, 1, device))))
    measured: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            measured[name].append(seconds(call, counts[name], device))
    return {name: _timing(values) for name, values in measured.items()}


def _timing(values: list[float]) -> Timing:
    if len(values) == 1:
        return Timing(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Timing(median, low, high)


def matrix_ceiling(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """Operations a second of a square matrix product, the best of several: what the machine could do at most.

    Args:
        device: the device.
        dtype: of the matrices.
        side: of the matrices; None: 8192 on a GPU, 1024 elsewhere.
    """
    side = side or (8192 if device.type == "cuda" else 1024)
    first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds(lambda: first @ second, 2, device)
    return 2 * side**3 / min(seconds(lambda: first @ second, 3, device) for _ in range(5))
