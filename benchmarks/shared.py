"""Code shared by the benchmarks: the folder of results, common arguments, child processes, cells of tables.

Run a benchmark from the project's root as a module: ``python -m benchmarks.speed.startup``.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

COMMON: dict[str, dict[str, Any]] = {
    "device": {"choices": ["cpu", "cuda"], "default": "cpu"},
    "output": {"type": Path, "default": RESULTS, "help": "folder of the tables"},
    "root": {"type": Path, "default": Path("data/cifar100"), "help": "CIFAR-100 in any form that data.root takes"},
    "seeds": {"type": int, "nargs": "+", "default": [1, 2, 3]},
    "workers": {"type": int, "default": 1, "help": "processes that train"},
    "repetitions": {"type": int, "default": 5},
    "rounds": {"type": int, "default": 3},
    "runs": {"type": Path, "required": True, "help": "folder of what is computed"},
    "afresh": {"action": "store_true", "help": "measure again what was measured"},
}


def script_parser(documentation: str | None, *common: str, **defaults: Any) -> argparse.ArgumentParser:
    """Build a parser that shows the script's documentation, with the named arguments of `COMMON`; ``defaults`` replace their defaults."""
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in common:
        settings = dict(COMMON[name])
        if name in defaults:
            settings["default"] = defaults[name]
        parser.add_argument(f"--{name}", **settings)
    return parser


def child(file: str, *arguments: Any) -> list[str]:
    """Return the command that runs a benchmark's file in a child process, for a figure that needs its own process."""
    module = ".".join(Path(file).resolve().relative_to(ROOT).with_suffix("").parts)
    return [sys.executable, "-m", module, *map(str, arguments)]


def mean_and_error(values: Sequence[float], scale: float = 1.0, digits: int = 1) -> str:
    """Format mean and standard error of the mean as a cell; for a single value, only the mean."""
    scaled = [scale * each for each in values]
    error = f" ± {statistics.stdev(scaled) / len(scaled) ** 0.5:.{digits}f}" if len(scaled) > 1 else ""
    return f"{statistics.mean(scaled):.{digits}f}{error}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format a table, with the first column left-aligned and the others right-aligned."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def cpu_seconds(step: Callable[[int], None], number: int) -> float:
    """Return the CPU seconds of this process for a step."""
    started = time.process_time()
    step(number)
    return time.process_time() - started


def peak_megabytes(step: Callable[[int], None]) -> float:
    """Return the peak growth of memory during a step, after a first step. Run it in its own process that frees small blocks at once, see :func:`grown`."""

    def field(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    step(0)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current memory
    before = field("VmRSS")
    step(0)
    return (field("VmHWM") - before) * 1024 / 1e6


def grown(file: str, ways: Iterable[str], *arguments: Any) -> dict[str, float]:
    """Return :func:`peak_megabytes` of each way, from child processes that get ``--way WAY`` and print the figure last."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    found = {}
    for way in ways:
        command = child(file, *arguments, "--way", way)
        done = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
        found[way] = float(done.stdout.split()[-1])
    return found


def ratios(own: list[float], others: list[float]) -> str:
    """Format the ratio of the least values, and the median of the ratios with its quartiles."""
    low, middle, high = statistics.quantiles([each / other for each, other in zip(own, others, strict=True)], n=4)
    return f"{min(own) / min(others):.3f} ({middle:.3f}, {low:.3f} to {high:.3f})"
