"""Times every part of the way from `pip install` to a trained, exported and quantised model of a folder of pictures.

    python -m benchmarks.own_images.five_minutes --pictures DIR --work DIR [--threads 2] [SETTING ...]

Makes a virtual environment in DIR, installs this checkout as docs/own-images.md says, and runs that page's commands on the folder, with the
defaults unless settings are given. Writes benchmarks/results/own_images/five_minutes.md. Needs only Python.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.shared import script_parser

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "own_images" / "five_minutes.md"


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float, str]:
    """Run a command that must succeed; return wall seconds, CPU seconds on all cores, and its output."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}")
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime, done.stdout


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("settings", nargs="*", help="of the training, such as training.epochs=60")
    arguments = parser.parse_args()
    work, pictures = arguments.work.absolute(), arguments.pictures.absolute()
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    binaries = work / "venv" / "bin"
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in {"PYTHONPATH", "HF_HUB_OFFLINE", "PYTHONDONTWRITEBYTECODE"}
    }
    environment["OMP_NUM_THREADS"] = str(arguments.threads)
    run, coterie = str(work / "run"), str(binaries / "coterie")
    commands = {
        "a virtual environment": [sys.executable, "-m", "venv", str(work / "venv")],
        "pip install uv": [str(binaries / "pip"), "install", "--quiet", "uv"],
        "uv pip install '.[onnx]'": [
            *(str(binaries / "python"), "-m", "uv", "pip", "install", "--quiet"),
            *("--python", str(binaries / "python"), f"{ROOT}[onnx]"),
        ],
        "coterie train": [coterie, "train", str(pictures), "--output", run, *arguments.settings],
        "coterie export --format onnx --int8": [coterie, "export", run, "--format", "onnx", "--int8"],
        "coterie predict (one picture)": [coterie, "predict", run, str(next(pictures.rglob("*.jpg")))],
    }
    rows, total, computed, load = [], 0.0, 0.0, [os.getloadavg()[0]]
    for name, command in commands.items():
        seconds, computing, output = timed(command, environment)
        load.append(os.getloadavg()[0])
        print(f"{name}: {seconds:.0f} s, {computing:.0f} s of computing\n{output}", flush=True)
        total, computed = total + seconds, computed + computing
        rows.append(f"| `{name}` | {seconds:.0f} | {computing:.0f} | {load[-1]:.1f} |")
    summary = json.loads((work / "run" / "summary.json").read_text())
    int8 = json.loads((work / "run" / "export" / "onnx-int8" / "int8.json").read_text())
    processor = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), platform.processor())  # fmt: skip
    images = summary["num_train"] + summary["num_validation"] + summary["num_test"]
    lines = [
        "# From `pip install` to a quantised model",
        "",
        f"{images} pictures in {len(summary['class_names'])} classes ({summary['num_train']} for training), {arguments.threads} threads, {processor}; "
        f"settings: {' '.join(arguments.settings) or 'none, all defaults'}. {summary['network']}, {summary['method']}, {summary['epochs']} epochs, "
        "from nothing. `--int8` exports to ONNX and quantises the file.",
        "",
        f"The machine's load was {min(load):.1f} to {max(load):.1f} on {os.cpu_count()} cores: where it is above the number of threads, others computed too, and the second column, "
        "seconds of computing on all cores, says more than the first.",
        "",
        "| part | seconds | seconds of computing | load after it |",
        "| --- | --- | --- | --- |",
        *rows,
        f"| all | {total:.0f} | {computed:.0f} | |",
        "",
        f"Test top-1 of the deployed student {summary['deployed']['top1']:.1%} ({summary['num_test']} pictures); "
        f"int8 {int8['int8_top1']:.1%} at {int8['int8_bytes'] / 1e6:.2f} MB, float {int8['float_bytes'] / 1e6:.2f} MB.",
        "",
    ]
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
