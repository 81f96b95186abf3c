"""How the cost of reading images grows with their number: coterie's folders, tar and parquet files, data sets of ``datasets``, timm's folders and webdataset's loader.

    python -m benchmarks.data_scale [--counts 10000 100000 1000000] [--forms folder tars parquet hub timm webdataset] [--batches 40] [--work DIR] [--output DIR]

Pictures are 64x64 JPEG files in 100 classes, with 500 distinct files: those of a folder are hard links to them. Of the tar files, with
2,500 samples each, at most ten are distinct and the others hard links; the same holds for parquet files, with row groups of 100 as ``datasets`` writes them.
``hub`` reads the same parquet files as ``hf://`` does: ``datasets`` converts them at the first start. All data are therefore read from memory, and the benchmark measures the program, not a disk.
Every program makes batches of 128 with two workers, cropped and flipped by the same timm transform. Each row runs in its own process.
``webdataset`` must be installed for its row (tried with 1.0.2).

- first start: time until the loader is ready, with an empty cache; coterie checks every file, the others none.
- start: the same again.
- CPU ms: CPU time of all processes per image, over some batches after the first ones. It is more reliable than images/s if other programs run.
- MB: peak memory of the main process above that after its imports; and the private memory of a worker.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

CLASSES, SIDE, BATCH, WORKERS = 100, 64, 128, 2
SAMPLES_OF_A_TAR, DIFFERENT, DIFFERENT_TARS = 2_500, 500, 10
FORMS = ("folder", "tars", "parquet", "hub", "timm", "webdataset")
PLACES = {"tars": "tars", "webdataset": "tars", "parquet": "parquet", "hub": "parquet"}  # others: folder


def pictures() -> list[bytes]:
    """Make random blots of colour, as JPEG."""
    from PIL import Image

    generator = np.random.default_rng(0)
    pool = []
    for _ in range(DIFFERENT):
        blots = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(blots).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        pool.append(buffer.getvalue())
    return pool


def write_folder(root: Path, count: int) -> None:
    """Write a folder of hard links. Every class folder has its own original files, since file systems limit the number of links to a file."""
    pool = pictures()
    for label in range(CLASSES):
        folder = root / "train" / f"class{label:03d}"
        folder.mkdir(parents=True)
        first: dict[int, Path] = {}
        for number in range(label, count, CLASSES):
            path = folder / f"picture{number:07d}.jpg"
            which = number // CLASSES % DIFFERENT
            if which in first:
                os.link(first[which], path)
            else:
                path.write_bytes(pool[which])
                first[which] = path


def write_tars(root: Path, count: int) -> None:
    root.mkdir(parents=True)
    pool = pictures()
    for shard in range(-(-count // SAMPLES_OF_A_TAR)):
        path = root / f"train-{shard:05d}.tar"
        if shard >= DIFFERENT_TARS:
            os.link(root / f"train-{shard % DIFFERENT_TARS:05d}.tar", path)
            continue
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for number in range(SAMPLES_OF_A_TAR):
                members = {"jpg": pool[(number + shard) % DIFFERENT], "cls": str(number % CLASSES).encode()}
                for ending, content in members.items():
                    entry = tarfile.TarInfo(f"picture{shard:05d}_{number:05d}.{ending}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))


def write_parquet(root: Path, count: int) -> None:
    import datasets

    root.mkdir(parents=True)
    pool = pictures()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=CLASSES)})
    for shard in range(-(-count // SAMPLES_OF_A_TAR)):
        path = root / f"train-{shard:05d}.parquet"
        if shard >= DIFFERENT_TARS:
            os.link(root / f"train-{shard % DIFFERENT_TARS:05d}.parquet", path)
            continue
        numbers = range(SAMPLES_OF_A_TAR)
        columns = {
            "image": [{"bytes": pool[(number + shard) % DIFFERENT], "path": None} for number in numbers],
            "label": [number % CLASSES for number in numbers],
        }
        datasets.Dataset.from_dict(columns, features=features).to_parquet(path)


WRITERS = {"folder": write_folder, "tars": write_tars, "parquet": write_parquet}


def transform() -> Any:
    from timm.data import create_transform

    return create_transform(
        SIDE, is_training=True, mean=(0.5,) * 3, std=(0.5,) * 3, scale=(0.08, 1.0), color_jitter=None
    )  # type: ignore[arg-type]


def hub_batches(root: Path) -> Iterator[Any]:
    return coterie_batches(f"hf://{root}")


def coterie_batches(root: Path | str) -> Iterator[Any]:
    from coterie.tasks.images.data.bundle import load_data
    from coterie.tasks.images.settings import ImageData

    recipe = ImageData(
        name=str(root), image_size=SIDE, crop_scale=None, in_memory=False, workers=WORKERS, test=0, validation=0
    )
    loader = load_data(recipe, batch_size=BATCH, seed=0, device=torch.device("cpu")).train
    return (batch.inputs for batch in loader.epoch(0))


def timm_batches(root: Path) -> Iterator[Any]:
    from timm.data import create_dataset

    dataset = create_dataset("", str(root / "train"), is_training=True, transform=transform())
    loader = torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, num_workers=WORKERS, worker_init_fn=one_thread)
    return (images for images, _ in loader)


def webdataset_batches(root: Path) -> Iterator[Any]:
    import webdataset

    tars = sorted(map(str, root.glob("*.tar")))
    samples = (
        webdataset.WebDataset(tars, shardshuffle=len(tars), seed=0).shuffle(1_000).decode("pil").to_tuple("jpg", "cls")
    )
    batches = samples.map_tuple(transform(), int).batched(BATCH)
    loader = webdataset.WebLoader(batches, batch_size=None, num_workers=WORKERS, worker_init_fn=one_thread)
    return (images for images, _ in loader)


def one_thread(worker: int) -> None:
    torch.set_num_threads(1)


BATCHES = {
    "folder": coterie_batches,
    "tars": coterie_batches,
    "parquet": coterie_batches,
    "hub": hub_batches,
    "timm": timm_batches,
    "webdataset": webdataset_batches,
}


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its children, both running and finished."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = time.process_time() + ended.ru_utime + ended.ru_stime
    for child in children():
        times = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        own += (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    return own


def private_mib(pid: int) -> float:
    """Return the memory that a process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def resident_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def child(form: str, root: Path, count: int) -> dict[str, float]:
    import timm.data  # noqa: F401
    import torchvision.transforms.v2  # noqa: F401

    import coterie.tasks.images.data.bundle  # noqa: F401

    empty = resident_mib()
    wall, cpu = time.perf_counter(), cpu_seconds()
    batches = BATCHES[form](root)
    start, start_cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    for _ in range(2 * WORKERS + 2):
        next(batches)
    wall, cpu = time.perf_counter(), cpu_seconds()
    for _ in range(count):
        next(batches)
    images = count * BATCH
    rate, each = images / (time.perf_counter() - wall), 1e3 * (cpu_seconds() - cpu) / images
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - empty
    workers = [private_mib(pid) for pid in children()]
    worker = sum(workers) / len(workers)
    return {"start": start, "start_cpu": start_cpu, "rate": rate, "cpu": each, "peak": peak, "worker": worker}


def measured(form: str, root: Path, batches: int, cache: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", form, str(root), str(batches)]
    environment = {
        **os.environ,
        "COTERIE_CACHE": str(cache),
        "HF_DATASETS_CACHE": str(cache / "datasets"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


NAMES = {
    "folder": "folder, coterie",
    "tars": "tar files, coterie",
    "parquet": "parquet files, coterie",
    "hub": "parquet files by `datasets` (`hf://`), coterie",
    "timm": "folder, timm's reader",
    "webdataset": "tar files, webdataset",
}
HEAD = [
    "| images | form | first start, s (CPU s) | start, s (CPU s) | images/s | CPU ms an image | peak MB, main process | own MB of a worker |",
    "|---|---|---|---|---|---|---|---|",
]


def row(count: int, form: str, first: dict[str, float], again: dict[str, float]) -> str:
    starts = [f"{each['start']:.1f} ({each['start_cpu']:.1f})" for each in (first, again)]
    return f"| {count:,} | {NAMES[form]} | {starts[0]} | {starts[1]} | {again['rate']:,.0f} | {again['cpu']:.2f} | {first['peak']:,.0f} | {again['worker']:,.0f} |"


def table(found: dict[str, Any]) -> str:
    keys = sorted((int(count), FORMS.index(form), form) for count, form in map(str.split, found))
    rows = [row(count, form, *found[f"{count} {form}"]) for count, _, form in keys]
    head = [
        "# Data at scale",
        "",
        f"{platform.machine()}, {os.cpu_count()} cores, {WORKERS} workers of one thread each, torch {torch.__version__}; "
        f"64x64 JPEG pictures in {CLASSES} classes, read from memory, batches of {BATCH}, timm's random crop and flip. What the columns are says "
        "`benchmarks/data_scale.py`. CPU seconds can be compared; seconds and images/s hold other programs' work too. Of the memory with `datasets`, most are "
        "pages of the mapped file, which the system takes back when it needs them (at a million images 1.2 GB of pages, 0.2 GB of the program's own).",
        "",
    ]
    return "\n".join([*head, *HEAD, *rows]) + "\n"


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        form, root, batches = sys.argv[2:]
        print(json.dumps(child(form, Path(root), int(batches))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--work", type=Path, help="where the pictures are written and stay; default: nowhere")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    kept = arguments.output / "data_scale.json"  # rows of earlier calls are kept
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        for count in arguments.counts:
            for form in arguments.forms:
                kind = PLACES.get(form, "folder")
                place = work / f"{kind}{count}"
                if not place.exists():
                    WRITERS[kind](place, count)
                cache = Path(temporary) / f"{form}{count}"
                found[f"{count} {form}"] = [measured(form, place, arguments.batches, cache) for _ in range(2)]
                print(row(count, form, *found[f"{count} {form}"]), flush=True)
                kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                (arguments.output / "data_scale.md").write_text(table(found), encoding="utf-8")


if __name__ == "__main__":
    main()
