"""Compares ways to run several trainings at once on one GPU: plain processes, processes under MPS, and threads with their own streams.

    python -m benchmarks.speed.concurrent_runs [--device cuda] [--counts 1 2 4] [--seconds 10] [--output DIR]

OKDMDE on ResNet-32, four branches, batch 128, random pixels, in the fastest mode of steps.py. All start together, and each counts its steps
in the given seconds. The total throughput of the GPU is compared with that of one run alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.fixed import fixed
from benchmarks.shared import child, script_parser
from benchmarks.speed.steps import MODES, RECIPE, synthetic

KINDS = ("processes", "processes under MPS", "streams")


def subject(root: Path, device: str, batch_size: int, folder: Path) -> Any:
    from coterie.benchmark.measure import Subject
    from coterie.recipe import load_recipe

    mode = MODES["compiled graph bf16, channels last" if device == "cuda" else "eager float32"]
    training = {**mode, "device": device, "batch_size": batch_size}
    return Subject(load_recipe(fixed({**RECIPE, "data": {"name": "cifar100", "root": str(root)}, "training": training})), folder)  # fmt: skip


def steps_in(trained: Any, seconds: float) -> int:
    """Count the steps that finish within the time."""
    steps, ended = 0, time.perf_counter() + seconds
    while time.perf_counter() < ended:
        trained.step_with_data()
        steps += 1
        if trained.device.type == "cuda" and steps % 20 == 0:  # the host must not queue too many steps
            torch.cuda.current_stream().synchronize()
    return steps


def count_steps(root: Path, device: str, batch_size: int, count: int, seconds: float) -> None:
    """Run ``count`` trainings in this process, each in a thread with its own stream if there are several; wait for a line on standard input to start."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [torch.cuda.Stream() if device == "cuda" and count > 1 else None for _ in range(count)]
        runs = []
        for number, stream in enumerate(streams):
            with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
                runs.append(subject(root, device, batch_size, Path(folder) / str(number)))
                for _ in range(5):
                    runs[-1].step_with_data()
        print("ready", flush=True)
        sys.stdin.readline()
        done = [0] * count

        def work(number: int) -> None:
            stream = streams[number]
            with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
                done[number] = steps_in(runs[number], seconds)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(sum(done), flush=True)


@contextlib.contextmanager
def multi_process_service() -> Iterator[dict[str, str]]:
    """Start NVIDIA's MPS for this user, and yield the environment for processes to use it."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        for each in environment.values():
            Path(each).mkdir()
        control = ["nvidia-cuda-mps-control"]
        subprocess.run([*control, "-d"], env=os.environ | environment, check=True, capture_output=True)
        try:
            yield environment
        finally:
            subprocess.run(control, input="quit\n", text=True, env=os.environ | environment, check=False)


def together(setting: list[str], per_process: list[int], seconds: float, environment: dict[str, str]) -> float:
    """Return the steps per second of all processes, each with its number of runs."""
    command = child(__file__, "--child", *setting)
    children = [
        subprocess.Popen([*command, str(count), str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
        for count in per_process
    ]  # fmt: skip
    try:
        for each in children:
            assert each.stdout is not None
            if each.stdout.readline().strip() != "ready":
                raise RuntimeError(f"a run did not start: exit status {each.wait()}")
        for each in children:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        return sum(int(each.stdout.readline()) for each in children if each.stdout is not None) / seconds
    finally:
        for each in children:
            each.kill() if each.poll() is None else None
            each.wait()


def measured(kind: str, count: int, setting: list[str], seconds: float) -> float:
    """Return the steps per second of ``count`` runs.

    Raises:
        RuntimeError: the kind is not available here, or a run failed.
    """
    if kind == "streams":
        return together(setting, [count], seconds, {})
    if kind == "processes":
        return together(setting, [1] * count, seconds, {})
    with multi_process_service() as environment:
        return together(setting, [1] * count, seconds, environment)


def table(device: str, batch_size: int, counts: list[int], seconds: float, output: Path) -> None:
    machine = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    lines = [
        "# Several runs at once",
        "",
        f"{machine}, torch {torch.__version__}. Made by `benchmarks/speed/concurrent_runs.py`; batch {batch_size}, {seconds:g} s each.",
        "",
        "| kind | runs | steps/s, all | of one run alone |",
        "|---|---|---|---|",
    ]
    alone = 0.0
    with tempfile.TemporaryDirectory() as folder:
        root = synthetic(Path(folder), 2_000)
        for kind in KINDS:
            for count in counts:
                if count == 1 and kind != "processes":
                    continue
                if device != "cuda" and kind != "processes":
                    lines.append(f"| {kind} | {count} | needs a CUDA device | |")
                elif kind == "processes under MPS" and shutil.which("nvidia-cuda-mps-control") is None:
                    lines.append(f"| {kind} | {count} | nvidia-cuda-mps-control is not installed | |")
                else:
                    try:
                        rate = measured(kind, count, [str(root), device, str(batch_size)], seconds)
                    except (RuntimeError, subprocess.SubprocessError, ValueError) as error:
                        lines.append(f"| {kind} | {count} | failed: {str(error).splitlines()[0][:120]} | |")
                    else:
                        alone = alone or rate / count
                        lines.append(
                            f"| {kind} | {count} | {rate:.1f} | {rate / alone if alone else float('nan'):.2f} |"
                        )
                print(lines[-1], flush=True)
                output.mkdir(parents=True, exist_ok=True)
                (output / f"concurrent_runs_{device}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        root, device, batch_size, count, seconds = sys.argv[2:]
        count_steps(Path(root), device, int(batch_size), int(count), float(seconds))
        return
    parser = script_parser(__doc__, "device", "output", device="cuda")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--batch-size", type=int, default=128)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that MPS is stopped, too
    table(arguments.device, arguments.batch_size, sorted({1, *arguments.counts}), arguments.seconds, arguments.output)


if __name__ == "__main__":
    main()
