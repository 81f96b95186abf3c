"""How time and memory of training grow with branches, image size, batch, and the number of images in a folder.

    python -m benchmarks.speed.growth [branches] [size] [batch] [folder] [--device cuda] [--folder 10000 100000 1000000] [--output DIR]

OKDMDE on ResNet-32, split at layer3, random pixels. Every setting runs in its own process, to measure its own peak memory
(on a CPU this includes torch's libraries; the table's first row is a process that trains nothing). A folder's images are
64x64 JPEG files in 100 classes; its rows give the time to list the folder and to return the first batch, the
images per second of its pipeline, and the memory of its main process.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fixed import fixed
from benchmarks.shared import child, script_parser
from benchmarks.speed.steps import synthetic

CLASSES, SIDE = 100, 64
BATCH = 128
CASES: dict[str, list[dict[str, Any]]] = {
    "branches": [
        {"branches": count, "checkpoint_branches": again} for count in (1, 2, 4, 8) for again in (False, True)
    ],
    "size": [{"image_size": side, "batch_size": 32} for side in (32, 48, 64, 96)],
    "batch": [{"batch_size": count} for count in (16, 64, 128, 256, 512)],
}
WHAT_GROWS = {"branches": "branches", "size": "image_size", "batch": "batch_size"}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def step_child(case: dict[str, Any], device: str, root: Path) -> dict[str, float]:
    """Return the median seconds per step, operations, and peak memory of this process (or of the GPU)."""
    from coterie.benchmark.measure import Subject
    from coterie.benchmark.timing import seconds
    from coterie.recipe import load_recipe

    recipe = {
        "data": {"name": "cifar100", "root": str(root), "image_size": case.get("image_size"), "in_memory": True},
        "network": {"name": "resnet32_cifar", "branches": case.get("branches", 4), "at": "layer3"},
        "method": {"name": "okdmde"},
        "training": {
            "batch_size": case.get("batch_size", BATCH),
            "checkpoint_branches": case.get("checkpoint_branches", False),
            "device": device,
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(load_recipe(fixed(recipe)), Path(folder) / "run")
        seconds(subject.step, 3, subject.device)
        times = [seconds(subject.step, 1, subject.device) for _ in range(9)]
        memory = subject.peak_bytes()  # before operations are counted, which needs more memory
        return {"seconds": statistics.median(times), "operations": subject.operations(), "memory": memory}


def folder_child(root: Path, device: str) -> dict[str, float]:
    """Return the seconds until the folder is read and until the first batch, images per second after it, and peak memory of this process."""
    from coterie.tasks.images.data.bundle import load_data
    from coterie.tasks.images.settings import ImageData

    recipe = ImageData(name=str(root), image_size=SIDE, crop_scale=None, in_memory=False)
    started = time.perf_counter()
    loader = load_data(recipe, batch_size=BATCH, seed=0, device=torch.device(device)).train
    read = time.perf_counter() - started
    batches = loader.epoch(0)
    next(batches)
    first = time.perf_counter() - started - read
    for _ in range(loader.ahead + 2):
        next(batches)
    started = time.perf_counter()
    for _ in range(40):
        next(batches)
    return {"read": read, "first": first, "rate": 40 * BATCH / (time.perf_counter() - started), "memory": peak()}


def write_folder(root: Path, count: int) -> None:
    """Write ``count`` JPEG files of random blots to train/, and a few to val/ and test/; existing files are kept."""
    import io

    from PIL import Image

    generator = np.random.default_rng(0)
    pool = []
    for _ in range(500):
        blots = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(blots).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        pool.append(buffer.getvalue())
    for split, size in {"train": count, "val": 1000, "test": 1000}.items():
        for label in range(CLASSES):
            folder = root / split / f"class{label:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(label, size, CLASSES):
                path = folder / f"{number}.jpg"
                if not path.exists():
                    path.write_bytes(pool[number % len(pool)])


def in_child(*arguments: str) -> dict[str, float]:
    command = child(__file__, "--child", *arguments)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def straight(sizes: list[float], values: list[float]) -> str:
    """Format the straight line through the points, and their largest distance from it."""
    slope, start = np.polyfit(sizes, values, 1)
    away = max(abs(slope * size + start - value) / value for size, value in zip(sizes, values, strict=True))
    return f"{start:.4g} + {slope:.4g} for each; at most {away:.0%} from it"


def step_table(part: str, device: str, root: Path, empty: float) -> list[str]:
    grows = WHAT_GROWS[part]
    memory_head = "peak MiB" if device == "cuda" else "MiB over an empty process"
    lines = [f"| {grows} | step, ms | images/s | ns an operation | {memory_head} |", "|---|---|---|---|---|"]
    points: dict[str, list[tuple[float, float, float]]] = {}
    for case in CASES[part]:
        found = in_child("step", json.dumps(case), device, str(root))
        batch = case.get("batch_size", BATCH)
        label = f"{case[grows]}{', checkpointed' if case.get('checkpoint_branches') else ''}"
        memory = (found["memory"] - empty) / 2**20
        each = 1e9 * found["seconds"] / found["operations"]
        lines.append(f"| {label} | {1e3 * found['seconds']:.0f} | {batch / found['seconds']:,.0f} | {each:.4f} | {memory:,.0f} |")  # fmt: skip
        print(lines[-1], flush=True)
        size = case[grows] ** 2 if part == "size" else case[grows]
        kind = ", checkpointed" if case.get("checkpoint_branches") else ""
        points.setdefault(kind, []).append((size, 1e3 * found["seconds"], memory))
    what = {"branches": "branch", "size": "pixel", "batch": "image"}[part]
    for kind, found_points in points.items():
        sizes, times, memories = (list(each) for each in zip(*found_points, strict=True))
        lines += ["", f"Straight lines, by {what}{kind}: ms {straight(sizes, times)}; MiB {straight(sizes, memories)}."]
    return lines


def folder_table(counts: list[int], device: str, work: Path) -> list[str]:
    lines = ["| images | names read, s | first batch after, s | images/s | peak MiB, main process |", "|---|---|---|---|---|"]  # fmt: skip
    for count in sorted(counts):
        write_folder(work / "folder", count)
        found = in_child("folder", str(work / "folder"), device)
        lines.append(f"| {count:,} | {found['read']:.2f} | {found['first']:.2f} | {found['rate']:,.0f} | {found['memory'] / 2**20:,.0f} |")  # fmt: skip
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        kind, *rest = sys.argv[2:]
        children: dict[str, Callable[[], dict[str, float]]] = {
            "step": lambda: step_child(json.loads(rest[0]), rest[1], Path(rest[2])),
            "folder": lambda: folder_child(Path(rest[0]), rest[1]),
            "empty": empty_child,
        }
        print(json.dumps(children[kind]()))
        return
    parser = script_parser(__doc__, "device", "output")
    parser.add_argument("parts", nargs="*", metavar="PART", help="branches, size, batch, folder; default: all")
    parser.add_argument("--folder", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="numbers of files")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    machine = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    with tempfile.TemporaryDirectory() as work:
        root = synthetic(Path(work) / "pixels", 2_000)
        empty = in_child("empty")["memory"] if arguments.device == "cpu" else 0.0
        for part in arguments.parts or [*CASES, "folder"]:
            lines = folder_table(arguments.folder, arguments.device, Path(work)) if part == "folder" else step_table(part, arguments.device, root, empty)  # fmt: skip
            what = "streamed from a folder of 64x64 JPEG files" if part == "folder" else f"OKDMDE on ResNet-32 split at layer3, batch {'32' if part == 'size' else BATCH if part == 'branches' else 'as stated'}"  # fmt: skip
            head = [f"# Growth with {part}", "", f"{machine}, torch {torch.__version__}, float32; {what}. Each row in a process of its own.", ""]  # fmt: skip
            (arguments.output / f"growth_{arguments.device}_{part}.md").write_text("\n".join(head + lines) + "\n")


def empty_child() -> dict[str, float]:
    """Return the memory of a process that has imported everything for training and made a single small step."""
    import coterie.running.train  # noqa: F401

    network = torch.nn.Conv2d(3, 8, 3)
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    return {"memory": peak()}


if __name__ == "__main__":
    main()
