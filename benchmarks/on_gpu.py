"""Runs all benchmarks that need a GPU, in order of importance and within a time budget; the same command continues after a stop.

    python -m benchmarks.on_gpu --data FOLDER --budget SECONDS [--output DIR] [--only STAGE ...] [--list]
    python -m benchmarks.on_gpu --tiny --budget SECONDS --output DIR      # the same stages at toy size on a CPU: tries the script

FOLDER holds CIFAR-100 in any form that ``data.root`` accepts, or the small parts that cifar_parts.py writes. Every
stage is a process that gets SIGTERM when the budget ends; comparisons can resume within a training run. DIR holds the finished stages
(stages.json), the tables (tables/), the comparisons themselves, and on_gpu.md, which lists them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.shared import ROOT, child, script_parser

GRACE = 45.0  # seconds that a stage has to write its checkpoint

# CIFAR-100, ResNet-32, top-1 in %, from docs/recipes.md and the methods' pages (PCL's table; the baseline is MCL-OKD's README's).
ANCHORS = {
    "baseline": 71.09,
    "dml": 73.68,
    "cl_ilr": 72.33,
    "one": 73.79,
    "ffl": 72.18,
    "okddip": 73.25,
    "kdcl": 73.76,
    "pcl": 74.14,
}


class Place(NamedTuple):
    """Folders and size of a stage."""

    data: Path
    output: Path
    tiny: bool

    @property
    def device(self) -> str:
        return "cpu" if self.tiny else "cuda"

    @property
    def tables(self) -> Path:
        return self.output / "tables"


class Stage(NamedTuple):
    """A part of the work: its name, the seconds that must be left to start it, its description, and its function."""

    name: str
    least: float
    what: str
    run: Callable[[Place], None]


def benchmark(name: str, place: Place, *arguments: str, tiny: tuple[str, ...] = ()) -> None:
    """Run another benchmark, with its arguments for a GPU or, for ``tiny``, those that make it small."""
    if place.tiny:
        from benchmarks.speed import growth, steps

        steps.RECIPE["network"] = {"name": "tiny_cifar", "branches": 2, "at": "auto"}
        steps.RECIPE["training"]["batch_size"] = 8
        growth.CASES = {"batch": [{"batch_size": 4}, {"batch_size": 8}]}
    sys.argv = [
        f"{name}.py",
        *(tiny if place.tiny else arguments),
        "--device",
        place.device,
        "--output",
        str(place.tables),
    ]
    importlib.import_module(f"benchmarks.{name}").main()


def run_tests(place: Place) -> None:
    asked = ["--collect-only"] if place.tiny else ["-x"]
    folder = ROOT / "tests" / "methods" / "test_family.py" if place.tiny else ROOT / "tests"
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "cuda", *asked, str(folder)], check=True, cwd=ROOT)


def at_paper_size(place: Place, labels: list[str], seeds: int, name: str) -> Path:
    """Train arms of online_family's part ``paper`` on all of CIFAR-100, with CUDA graphs and compilation in bf16; return the comparison's folder."""
    import online_family
    import torch

    import coterie
    from benchmarks.fixed import fixed
    from benchmarks.speed.steps import MODES

    torch.set_num_threads(1 if place.tiny else torch.get_num_threads())
    mode = MODES["eager float32" if place.tiny else "compiled graph bf16, channels last"]
    recipes = {}
    for label, recipe in online_family.arms("paper", place.data).items():
        if label not in labels:
            continue
        recipe["training"] = {**recipe["training"], **mode, "device": place.device}
        if place.tiny:
            recipe["network"] = {**recipe["network"], "name": "tiny_cifar"}
            recipe["training"] |= {"epochs": 1, "batch_size": 16, "evaluate_every": 1}
        recipes[label] = fixed(recipe)
    result = coterie.compare(recipes, seeds=list(range(1, seeds + 1)), output=place.output / name, reference="baseline")
    online_family.keep(result.path, place.tables / name)
    return result.path


def headline(place: Place) -> None:
    for seeds in (1,) if place.tiny else (1, 3, 5):  # write a readable table after each round
        at_paper_size(place, ["baseline", "okdmde"], seeds, "okdmde")


def in_the_way(place: Place) -> None:
    benchmark("speed.steps", place, "modes", tiny=("modes", "--repetitions", "1", "--only", "eager float32"))
    if not place.tiny:  # a CPU has no GPU kernels
        benchmark("speed.steps", place, "profile")


def at_once(place: Place) -> None:
    benchmark("speed.concurrent_runs", place, tiny=("--counts", "1", "2", "--seconds", "0.5", "--batch-size", "8"))


def family(place: Place) -> None:
    import online_family

    labels = ["baseline", "one"] if place.tiny else list(online_family.PAPER)
    path = at_paper_size(place, labels, 1, "family")
    figures = json.loads((path / "comparison.json").read_text(encoding="utf-8"))
    lines = ["# The family at the paper's recipe, beside what is published", "", "| arm | top-1 % here, one seed | published |", "|---|---|---|"]  # fmt: skip
    for label, arm in figures["methods"].items():
        mean = arm["figures"]["primary.top1"]["mean"]
        lines.append(f"| {label} | {100 * mean:.2f} | {ANCHORS.get(label, '–')} |")
    lines += [
        "",
        "Published: docs/recipes.md, spread between papers up to 1.4 points. Last epoch here, best epoch on test there.",
    ]
    (place.tables / "family_anchors.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def competitors(place: Place) -> None:
    benchmark("speed.competitors", place, "--rounds", "0", tiny=("--quick", "--rounds", "0", "--threads", "1"))


def data_share(place: Place) -> None:
    benchmark("speed.steps", place, "methods", tiny=("methods", "--only", "okdmde", "--repetitions", "1"))


def growth(place: Place) -> None:
    for part in ("batch",) if place.tiny else ("branches", "size", "batch"):
        if not (place.tables / f"growth_{place.device}_{part}.md").is_file():  # written when a part is complete
            benchmark("speed.growth", place, part, tiny=(part,))


STAGES = [
    Stage("tests", 60, "tests marked for CUDA", run_tests),
    Stage(
        "headline", 120, "OKDMDE against the network alone, ResNet-32, 300 epochs, bf16 recorded and compiled", headline
    ),
    Stage("in_the_way", 120, "where a step's time goes: precision, memory format, recording, kernels", in_the_way),
    Stage("at_once", 120, "several runs at once: processes, MPS, streams", at_once),
    Stage("family", 120, "the family at the paper's recipe, one seed each, beside the published figures", family),
    Stage("competitors", 90, "a step beside other libraries' steps", competitors),
    Stage("data_share", 120, "every method's step with and without its data", data_share),
    Stage("growth", 120, "time and memory by branches, image size and batch", growth),
]


def read_done(output: Path) -> dict[str, Any]:
    path = output / "stages.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def write_done(output: Path, done: dict[str, Any]) -> None:
    partial = output / "stages.json.partial"
    partial.write_text(json.dumps(done, indent=1), encoding="utf-8")
    partial.rename(output / "stages.json")


def run_stage(command: list[str], seconds: float, log: Path) -> int | None:
    """Run a stage and return its exit status; None: it was stopped when its time was over."""
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)  # its own session: the stage and its child processes
            try:
                process.wait(timeout=GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            return None


def write_page(output: Path, done: dict[str, Any], machine: str) -> None:
    lines = ["# What was measured on a GPU", "", machine, "", "| stage | | seconds so far | |", "|---|---|---|---|"]
    for stage in STAGES:
        state = done.get(stage.name, {})
        lines.append(
            f"| {stage.name} | {stage.what} | {state.get('seconds', 0):.0f} | {state.get('state', 'not begun')} |"
        )
    tables = sorted((output / "tables").rglob("*.md")) if (output / "tables").is_dir() else []
    lines += ["", "Tables:", "", *(f"- [{path.relative_to(output)}]({path.relative_to(output)})" for path in tables)]
    (output / "on_gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def work(place: Place, stages: list[Stage], budget: float, machine: str) -> None:
    """Run the stages that are not done, while there is time."""
    ends = time.monotonic() + budget
    (place.output / "logs").mkdir(parents=True, exist_ok=True)
    place.tables.mkdir(exist_ok=True)
    done = read_done(place.output)
    for stage in stages:
        state = done.get(stage.name, {"seconds": 0.0})
        if state.get("state") == "done":
            continue
        left = ends - time.monotonic() - GRACE
        if left < (1 if place.tiny else stage.least):
            print(f"{stage.name}: not begun, {max(0, left):.0f} s are left and it wants {stage.least:.0f}", flush=True)
            continue
        print(f"{stage.name}: {stage.what}", flush=True)
        command = child(__file__, "--stage", stage.name, "--data", place.data, "--output", place.output)
        log, started = place.output / "logs" / f"{stage.name}.log", time.monotonic()
        status = run_stage(command + ["--tiny"] * place.tiny, left, log)
        state["seconds"] += time.monotonic() - started
        state["state"] = "stopped: goes on with more budget" if status is None else "done" if status == 0 else f"failed with status {status}, see {log.name}"  # fmt: skip
        done[stage.name] = state
        write_done(place.output, done)
        write_page(place.output, done, machine)
        print(f"{stage.name}: {state['state']}, {state['seconds']:.0f} s", flush=True)
    write_page(place.output, done, machine)


def main() -> int:
    parser = script_parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder with CIFAR-100, or with its parts")
    parser.add_argument("--budget", type=float, default=600.0, help="seconds for everything")
    parser.add_argument("--output", type=Path, default=Path("on_gpu"))
    parser.add_argument("--only", nargs="+", choices=[stage.name for stage in STAGES], help="these stages only")
    parser.add_argument("--tiny", action="store_true", help="toy size on the CPU")
    parser.add_argument("--list", action="store_true", help="say what the stages are, and do nothing")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{stage.name:<12} {stage.what}" for stage in STAGES))
        return 0
    place = Place(arguments.data or arguments.output / "data", arguments.output.resolve(), arguments.tiny)
    if arguments.stage:
        next(stage for stage in STAGES if stage.name == arguments.stage).run(place)
        return 0
    import torch

    from benchmarks.images.cifar_parts import join
    from benchmarks.speed.steps import synthetic

    if arguments.tiny:
        machine = "Toy size on a CPU: no figure here means anything."
        place = place._replace(data=synthetic(place.output / "data", 200))
    elif not torch.cuda.is_available():
        print("on_gpu: no CUDA device here; --tiny tries the script on the CPU", file=sys.stderr)
        return 2
    elif arguments.data is None or not arguments.data.is_dir():
        print(f"on_gpu: --data={arguments.data} is not a folder; expected CIFAR-100, or the parts that cifar_parts.py writes", file=sys.stderr)  # fmt: skip
        return 2
    else:
        machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
        place = place._replace(data=join(arguments.data.resolve(), place.output / "data"))
    stages = [stage for stage in STAGES if not arguments.only or stage.name in arguments.only]
    work(place, stages, arguments.budget, machine)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
