"""Compares a training step of coterie with a plain PyTorch loop and with libraries from PyPI that train the same.

    python -m venv .venv-competitors
    .venv-competitors/bin/pip install -e . torchdistill pytorch-dml nvidia-modelopt requests   # modelopt needs requests, undeclared
    .venv-competitors/bin/python -m benchmarks.speed.competitors [--quick] [--device cuda] [--threads 2] [--repetitions 7] [--rounds 3]

writes benchmarks/results/competitors.md and .json (with --quick competitors_quick.*, with --device cuda competitors_cuda.*).

Peers (DML, two and three networks) and KD (one teacher, one student): the same initial weights, tensors, losses and SGD for all, in one
process, interleaved. The script checks that all compute the same: the student's weights after the first step must be those of the plain loop. A library that
is missing or fails is in the table with its error. The plain loop's page faults are counted in child processes, one for each setting
of glibc's allocator.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.shared import child, script_parser
from benchmarks.speed.competing_steps import CLASSES, Contestant, Setting, contestants, make_setting, plain_kd
from coterie.benchmark.timing import interleaved, synchronise
from coterie.networks.papers.registration import register
from coterie.running.environment import describe_environment

PACKAGES = ("torch", "timm", "torchdistill", "pytorch-dml", "nvidia-modelopt")
MALLOC = {
    "default": {},
    "TRIM_THRESHOLD=4G": {"MALLOC_TRIM_THRESHOLD_": str(2**32)},
    "MMAP_THRESHOLD=32M": {"MALLOC_MMAP_THRESHOLD_": str(2**25)},
    "TOP_PAD=512M": {"MALLOC_TOP_PAD_": str(2**29)},
    "MMAP_THRESHOLD=32M, TRIM_THRESHOLD=4G": {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**32)},
    "MMAP_MAX=0, TRIM_THRESHOLD=4G": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**32)},
}  # fmt: skip


def weights(contestant: Contestant) -> list[Tensor]:
    return [p.detach() for each in contestant.students for p in each.parameters() if p.requires_grad]


def first_step(contestant: Contestant) -> list[Tensor]:
    """Return the change of the weights in the first step."""
    before = [each.clone() for each in weights(contestant)]
    contestant.step()
    return [after - start for after, start in zip(weights(contestant), before, strict=True)]


def faults_of(call: Callable[[], object], times: int = 3) -> float:
    """Return the minor page faults of a call."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        call()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / times


def compare(
    builders: Mapping[str, Callable[[], Contestant]], device: torch.device, repetitions: int
) -> dict[str, dict[str, Any]]:
    """Return seconds per step, the ratio to the reference, page faults, and the distance of the first update from the reference's; or the error."""
    built: dict[str, Contestant] = {}
    rows: dict[str, dict[str, Any]] = {}
    expected: list[Tensor] = []
    for name, build in builders.items():
        try:
            contestant = build()
            change = first_step(contestant)
        except Exception as error:  # a library that fails is in the table with its error
            rows[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
            continue
        expected = expected or change
        far = max((a - b).abs().max() for a, b in zip(change, expected, strict=True))
        rows[name] = {"difference": float(far / max(each.abs().max() for each in expected))}
        built[name] = contestant
    timings = interleaved({name: each.step for name, each in built.items()}, device, repetitions)
    reference = next(iter(built))
    for name, timing in timings.items():
        batches = built[name].batches
        rows[name] |= {key: value / batches for key, value in timing._asdict().items()}
        rows[name]["ratio"] = rows[name]["median"] / rows[reference]["median"]
        rows[name]["faults"] = faults_of(built[name].step) / batches
    return rows


def allocator_child(order: str, setting: Setting) -> dict[str, float]:
    """Measure page faults and seconds of a step of the plain loop; run in a child process."""
    step = plain_kd(setting, order).step
    for _ in range(3):
        step()
    synchronise(setting.device)
    times = []
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(7):
        started = time.perf_counter()
        step()
        synchronise(setting.device)
        times.append(time.perf_counter() - started)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    return {"seconds": statistics.median(times), "faults": faults / len(times), "peak_bytes": peak}


def allocator(arguments: list[str], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return medians over rounds by allocator setting and order; each round goes through all settings."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for name, variables in MALLOC.items():
            for order in ("teacher", "student"):
                command = child(__file__, *arguments, "--child", order)
                done = subprocess.run(
                    command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True, check=True
                )
                found.setdefault((name, order), []).append(json.loads(done.stdout.splitlines()[-1]))
    table: dict[str, dict[str, dict[str, float]]] = {name: {} for name in MALLOC}
    for (name, order), runs in found.items():
        table[name][order] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    return table


def markdown(found: Mapping[str, Any]) -> str:
    machine, shape = found["machine"], found["shape"]
    lines = [
        "# Training steps beside other libraries",
        "",
        f"Made by `benchmarks/speed/competitors.py`. {shape['student']} (teacher {shape['teacher']}), 3x32x32, {CLASSES} classes, batch {shape['batch']}, float32, "
        f"channels last for all but where a row says otherwise; SGD with Nesterov's momentum. {machine.get('device')}, {machine.get('threads')} thread(s); "
        + ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        + f". Medians of {found['repetitions']} interleaved repetitions.",
        "",
        "First update: largest difference of the students' first change of weights from the plain loop's, over the largest change.",
    ]
    for section, rows in found["sections"].items():
        lines += ["", f"## {section}", "", "| | step, ms (quartiles) | over the plain loop | page faults a step | first update |", "|---|---|---|---|---|"]  # fmt: skip
        for name, row in rows.items():
            if "error" in row:
                lines.append(f"| {name} | failed: {row['error']} | | | |")
                continue
            low, median, high = (1e3 * row[key] for key in ("low", "median", "high"))
            lines.append(
                f"| {name} | {median:.1f} ({low:.1f} to {high:.1f}) | {row['ratio']:.3f} | {row['faults']:,.0f} | {row['difference']:.0e} |"
            )
    if found["allocator"]:
        lines += ["", "## KD's plain loop under glibc's allocator settings", "", "Each in a process of its own.", ""]
        lines += ["| MALLOC_..._ | teacher first: ms | page faults a step | peak MiB | student first: ms | page faults a step | peak MiB | student first over teacher first |", "|---|" + "---|" * 7]  # fmt: skip
        for name, orders in found["allocator"].items():
            cells = [
                f"{1e3 * run['seconds']:.1f} | {run['faults']:,.0f} | {run['peak_bytes'] / 2**20:,.0f}"
                for run in (orders["teacher"], orders["student"])
            ]
            over = orders["student"]["seconds"] / orders["teacher"]["seconds"]
            lines.append(f"| {name} | {cells[0]} | {cells[1]} | {over:.3f} |")
    return "\n".join(lines) + "\n"


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main() -> None:
    parser = script_parser(__doc__, "output", "repetitions", repetitions=7)
    parser.add_argument(
        "--quick", action="store_true", help="small networks and batches: whether it runs, not how fast"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="of the allocator's settings; 0: none")
    parser.add_argument("--child", choices=("teacher", "student"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    register()
    torch.set_num_threads(arguments.threads)
    student, guide, batch = ("resnet8_cifar", "resnet20_cifar", 32) if arguments.quick else ("resnet32_cifar", "resnet110_cifar", 128)  # fmt: skip
    setting = make_setting(student, guide, batch, torch.device(arguments.device))
    if arguments.child:
        print(json.dumps(allocator_child(arguments.child, setting)))
        return
    found: dict[str, Any] = {
        "machine": describe_environment(setting.device, 0, 1),
        "versions": {package: version(package) for package in PACKAGES},
        "shape": {"student": student, "teacher": guide, "batch": batch, "classes": CLASSES},
        "repetitions": arguments.repetitions,
        "sections": {},
        "allocator": {},
    }
    name = "_".join(["competitors", *["quick"] * arguments.quick, *[arguments.device] * (arguments.device != "cpu")])
    arguments.output.mkdir(parents=True, exist_ok=True)

    def write() -> None:  # after each part, so that a stop loses nothing
        (arguments.output / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (arguments.output / f"{name}.md").write_text(markdown(found), encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder:
        for section, builders in contestants(setting, Path(folder)).items():
            found["sections"][section] = compare(builders, setting.device, arguments.repetitions)
            write()
    if setting.device.type == "cpu" and arguments.rounds:
        passed = ["--threads", str(arguments.threads), *["--quick"] * arguments.quick]
        found["allocator"] = allocator(passed, arguments.rounds)
        write()
    print(markdown(found))


if __name__ == "__main__":
    main()
