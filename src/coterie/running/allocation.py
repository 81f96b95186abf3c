"""glibc's allocator, told to keep what a step frees: the next step asks for the same sizes again."""

from __future__ import annotations

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # mallopt's parameters, <malloc.h>
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Serve large blocks from the heap, and give none of it back until the process ends; whether that took effect.

    By default glibc maps every block of 32 MiB or more afresh and unmaps it when it is freed, so that each step of a CPU training
    faults its large activations in page by page: a third of the time of a step with 512 images (benchmarks/results). Only on Linux
    with glibc; settings of one's own (``MALLOC_*``, ``GLIBC_TUNABLES``) stand.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library, which has its own ways
        return False
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, LARGEST))
