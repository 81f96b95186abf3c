"""Times calls on a device in interleaved repetitions, so that load on the machine affects all of them equally."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

LEAST_SECONDS = 0.3  # minimum duration of one repetition
# Warm-up calls: on a GPU a step runs three times eagerly, then is captured.
WARM_UP = {"cuda": 5}
OTHER_WARM_UP = 2


class Timing(NamedTuple):
    """Seconds of one call: median over repetitions, and the quartiles."""

    median: float
    low: float
    high: float


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds(call: Callable[[], object], times: int, device: torch.device) -> float:
    """Returns the mean seconds of ``times`` consecutive calls, until the device has finished."""
    synchronise(device)
    if device.type == "cuda":  # CUDA events: from the start of the first kernel to the end of the last one
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
    """Time several calls in turn, in several rounds.

    Each call is warmed up first (compilation, caches, page faults, graph capture on a GPU), and repeated within a round until that takes ``least`` seconds.

    Args:
        calls: the calls to time, by name.
        device: the device on which they run.
        repetitions: number of rounds over all calls.
        least: minimum seconds of a call's repetitions in a round.
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
    """Measures the operations per second of a large matrix product and a large convolution; returns the larger, an estimate of the machine's maximum.

    On CPUs the two use different libraries, and either may be much faster.

    Args:
        device: the device.
        dtype: data type of the tensors.
        side: side of the square matrices; None: 8192 on a GPU, 2048 elsewhere. The 3x3 convolution has side/8 channels and side/64 positions per side.
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
    times = 3 if device.type == "cuda" else 1  # a single call is long enough to time on a CPU
    with torch.no_grad():
        for call, operations in work.items():
            seconds(call, times, device)
            rates.append(operations / min(seconds(call, times, device) for _ in range(5)))
    return max(rates)
