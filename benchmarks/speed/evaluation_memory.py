"""Memory of an evaluation without that of networks: 4 students with random logits of 1,000 classes.

    python -m benchmarks.speed.evaluation_memory [--samples 10000 25000 100000] [--output FILE]

Each size runs in its own process on the CPU. The figure is its peak resident memory, minus the resident memory before the first batch.
To measure an older version, put its ``src`` first on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from benchmarks.shared import child, script_parser
from coterie.methods.group_method import GroupMethod, Predictions

STUDENTS, CLASSES, BATCH = 4, 1000, 250


class Drawn(GroupMethod):
    """A method without networks: random logits that slightly favour the correct class."""

    needs_validation = False

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.group = SimpleNamespace(num_students=STUDENTS)  # type: ignore[assignment]
        self.deployed_student = 0

    def predict(self, targets: Tensor) -> Predictions:  # type: ignore[override]
        logits = torch.randn(STUDENTS, len(targets), CLASSES)
        logits[:, torch.arange(len(targets)), targets] += 3
        statistics = {"drawn": torch.ones(len(targets), STUDENTS)}
        return Predictions(logits, logits.mean(0), logits[0], statistics)


class Numbers:
    """Batches of class indices in place of inputs."""

    def __init__(self, samples: int) -> None:
        self.num_samples = samples

    def __iter__(self) -> Iterator[Any]:
        for indices in torch.arange(self.num_samples).split(BATCH):
            yield SimpleNamespace(inputs=indices % CLASSES, targets=indices % CLASSES, indices=indices)


def measure(samples: int) -> dict[str, float]:
    """Return the growth of peak memory in MiB, and the accuracy."""
    from coterie.tasks.classification import Classification

    task = Classification()
    task.accelerator = Accelerator(cpu=True)
    task.data = SimpleNamespace(validation=None)  # type: ignore[assignment]
    method, loader = Drawn(), Numbers(samples)
    task.evaluate(method, Numbers(BATCH))  # type: ignore[arg-type]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    evaluation = task.evaluate(method, loader)  # type: ignore[arg-type]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    top1 = evaluation.figures["deployed"]["top1"]
    return {"samples": samples, "mib": (peak - before) / 1024, "top1": top1}


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 25_000, 100_000])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        torch.manual_seed(0)
        print(json.dumps(measure(arguments.one)))
        return
    lines = ["| samples | MiB beside the network |", "|---:|---:|"]
    for samples in arguments.samples:
        command = child(__file__, "--one", str(samples))
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        lines.append(f"| {found['samples']:,} | {found['mib']:,.0f} |")
        print(lines[-1], flush=True)
    if arguments.output is not None:
        arguments.output.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
