"""Start-up times: commands that do not need torch, and the first step of a training run.

    python -m benchmarks.speed.startup [--repetitions 5] [--output DIR]

Every figure is the median of fresh processes, which run in turn. The first step ends when the loop has returned from it.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.shared import script_parser

COMMAND = "import sys; from coterie.cli import main; sys.argv = ['coterie', {arguments}]; main(); "
NO_TORCH = "assert 'torch' not in sys.modules, 'torch was imported'"
FIRST_STEP = """
import os, sys
from coterie.training.loop import Trainer
original = Trainer.train_batch
def once(self, *arguments):
    original(self, *arguments)
    os._exit(0)
Trainer.train_batch = once
from coterie.cli import main
sys.argv = ["coterie", "train", "data=digits", "--output", "{folder}"]
main()
"""


def run(code: str) -> tuple[float, float]:
    """Return wall and CPU seconds of a fresh interpreter that runs the code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    import torch

    parser = script_parser(__doc__, "output", "repetitions")
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for repetition in range(arguments.repetitions + 1):
            codes = {
                "`coterie --help`, without torch": COMMAND.format(arguments="'--help'") + NO_TORCH,
                "`coterie list methods`, without torch": COMMAND.format(arguments="'list', 'methods'") + NO_TORCH,
                "`import torch, timm`": "import torch, timm",
                "first step of `coterie train data=digits`": FIRST_STEP.format(folder=f"{folder}/{repetition}"),
            }
            for name, code in codes.items():
                times = run(code)
                if repetition:  # the first one fills the disk cache
                    found.setdefault(name, []).append(times)
    medians = {name: [statistics.median(each) for each in zip(*times, strict=True)] for name, times in found.items()}
    step, imports = (medians[name][0] for name in list(medians)[:1:-1])
    lines = [
        "# Start-up",
        "",
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}; medians of {arguments.repetitions} fresh processes.",
        "",
        "| | seconds | CPU seconds |",
        "|---|---|---|",
        *(f"| {name} | {wall:.2f} | {cpu:.2f} |" for name, (wall, cpu) in medians.items()),
        "",
        f"The first step comes {step - imports:.1f} s after what the import takes.",
    ]
    (arguments.output / "startup.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
