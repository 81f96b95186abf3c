"""The allocator's settings, in processes of their own: they hold for a whole process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from coterie.running.allocation import keep_freed_memory
told = keep_freed_memory() if sys.argv[1] == "told" else None
for step in range(30):
    block = torch.ones(12_000_000)  # 48 MB, above what glibc keeps by itself
    del block
    if step == 14:  # the heap has grown by then: in four trials the last block was mapped anew at steps 6 to 8
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count(*arguments: str, **variables: str) -> tuple[str, int]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    run = subprocess.run(
        [sys.executable, "-c", COUNT, *arguments],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    told, faults = run.stdout.split()
    return told, int(faults)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_freed_memory_is_not_faulted_in_again():
    told, kept = count("told")
    _, default = count("not told")
    assert told == "True"
    assert default > 100  # 15 blocks, of huge pages or small ones
    assert kept < default / 5


@pytest.mark.slow
def test_the_users_own_settings_stand():
    assert count("told", MALLOC_ARENA_MAX="4")[0] == "False"
