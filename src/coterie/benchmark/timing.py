"""Clocks: how long something takes on a device, in interleaved repetitions, so that a busy machine slows all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

LEAST_SECONDS = 0.3  # of one repetition
# Calls before the first one that counts: on a GPU a step runs three times as it is, then is recorded.
WARM_UP = {"cuda": 5}
OTHER_WARM_UP = 2


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
    if device.type == "cuda":  # by the card's own clock, from the first kernel's turn to the last one's end
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started.record()
        for _ in range(times):
            call()
        ended.record()
        synchronise(device)
        return started.elapsed_time(ended) / 1e3 / times
    began = time.perf_counter()
    for _ in range(times):
        call()
    synchronise(device)
    return (time.perf_counter() - began) / times


def interleaved(
    calls: Mapping[str, Callable[[], object]], device: torch.device, repetitions: int = 7, least: float = LEAST_SECONDS
) -> dict[str, Timing]:
    """Time several calls in turn, again and again.

    Each is warmed up first (compilation, caches, page faults, the recording of a step on a GPU), and repeated within a repetition until that takes ``least`` seconds.

    Args:
        calls: what is timed, by name.
        device: whose work they are.
        repetitions: rounds over all calls.
        least: seconds.
    """
    counts = {}
    for name, call in calls.items():
        seconds(call, WARM_UP.get(device.type, OTHER_WARM_UP), device)
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


def ceiling(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """Operations a second of a large matrix product or a large convolution, whichever is faster: what the machine could do at most.

    On CPUs the two go through different libraries, and either may be well ahead.

    Args:
        device: the device.
        dtype: of the numbers.
        side: of the square matrices; None: 8192 on a GPU, 2048 elsewhere. The 3x3 convolution has side/8 channels on side/64 positions a side.
    """
    side = side or (8192 if device.type == "cuda" else 2048)
    first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    channels, positions, images = side // 8, side // 64, 32
    maps = torch.randn(images, channels, positions, positions, device=device, dtype=dtype)
    kernel = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    maps, kernel = (each.contiguous(memory_format=torch.channels_last) for each in (maps, kernel))
    work: dict[Callable[[], object], int] = {
        lambda: first @ second: 2 * side**3,
        lambda: torch.nn.functional.conv2d(maps, kernel, padding=1): 2 * 9 * images * positions**2 * channels**2,
    }
    rates = []
    times = 3 if device.type == "cuda" else 1  # a call takes long enough on a CPU to be timed by itself
    with torch.no_grad():
        for call, operations in work.items():
            seconds(call, times, device)
            rates.append(operations / min(seconds(call, times, device) for _ in range(5)))
    return max(rates)
