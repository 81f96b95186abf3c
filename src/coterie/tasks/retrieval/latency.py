"""Latency of a single query."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

QUERIES = 20  # queries to time
WARM_UP = 3
LONGEST = 10.0  # total seconds after which timing stops early


def query_milliseconds(encoders: Sequence[Any], queries: Sequence[str]) -> list[float]:
    """Measure the median time of ``encode_query`` for one text with each encoder, in milliseconds, on the CPU, tokenisation included.

    The encoders take turns, so that other load on the machine affects all of them.

    Args:
        encoders: encoders of sentence-transformers; they are moved to the CPU.
        queries: at least one.
    """
    texts = [queries[number * len(queries) // QUERIES] for number in range(QUERIES)]
    took: list[list[float]] = [[] for _ in encoders]
    for encoder in encoders:
        encoder.to("cpu").eval()
    started = time.perf_counter()
    for number, text in enumerate([*texts[:WARM_UP], *texts]):
        for encoder, times in zip(encoders, took, strict=True):
            begun = time.perf_counter()
            encoder.encode_query(text, show_progress_bar=False)
            if number >= WARM_UP:
                times.append(1000 * (time.perf_counter() - begun))
        if took[-1] and time.perf_counter() - started > LONGEST:
            break
    return [statistics.median(times) for times in took]
