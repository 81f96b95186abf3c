"""Configures glibc's allocator to keep freed memory: the next step allocates the same sizes again."""

from __future__ import annotations

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # mallopt's parameters, <malloc.h>
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Serve large blocks from the heap, and return no memory to the system until the process ends.

    By default glibc maps every block of 32 MiB or more anew and unmaps it when it is freed. Each step of CPU training then causes page
    faults for its large activations: a third of the time of a step with 512 images (benchmarks/results). Applies only on Linux
    with glibc, and not if the environment sets ``MALLOC_*`` or ``GLIBC_TUNABLES``.

    Returns:
        Whether the settings took effect.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, LARGEST))
