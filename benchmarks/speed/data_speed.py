"""Augmented images per second: pixels in memory augmented in batches, against a DataLoader with torchvision's transforms per image.

    python -m benchmarks.speed.data_speed [--workers 2] [--output DIR]

CIFAR shape, batch 128: random crop with padding 4, flip, normalisation. Both produce normalised float32 batches on the CPU.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import torch
from torchvision.transforms import v2

from benchmarks.shared import script_parser
from benchmarks.speed.steps import synthetic


class Images(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Pixels with torchvision's transforms, one image at a time."""

    def __init__(self, folder: Path) -> None:
        import numpy as np
        from PIL import Image

        with np.load(folder / "train.npz") as file:
            self.images = [Image.fromarray(each) for each in file["images"]]
            self.labels = file["labels"].tolist()
        statistics = (0.507, 0.486, 0.441), (0.267, 0.256, 0.276)
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(*statistics),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[number]), self.labels[number]


def main() -> None:
    from coterie.tasks.images.data.bundle import load_data
    from coterie.tasks.images.settings import ImageData

    parser = script_parser(__doc__, "output", "rounds")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = synthetic(Path(folder), 20_000)
        recipe = ImageData(name="cifar100", root=str(root), validation=0)
        ours = load_data(recipe, batch_size=128, seed=0, device=torch.device("cpu"), channels_last=True).train
        images = Images(root)
        theirs = torch.utils.data.DataLoader(
            images, 128, shuffle=True, num_workers=arguments.workers, drop_last=True, persistent_workers=True
        )
        for _ in theirs:  # starts the workers
            break
        rates: dict[str, list[float]] = {"ours": [], "theirs": []}
        for epoch in range(arguments.rounds):
            for name, batches in (("ours", ours.epoch(epoch)), ("theirs", theirs)):
                started = time.perf_counter()
                count = sum(len(batch[1]) for batch in batches)
                rates[name].append(count / (time.perf_counter() - started))
    median = {name: sorted(each)[len(each) // 2] for name, each in rates.items()}
    lines = [
        "# Augmented images a second",
        "",
        f"CPU, {os.cpu_count()} cores, torch {torch.__version__}; CIFAR shape, batch 128, crop, flip, normalisation; medians of {arguments.rounds} epochs in turn.",
        "",
        "| | images/s |",
        "|---|---|",
        f"| in memory, in batches, {torch.get_num_threads()} threads | {median['ours']:,.0f} |",
        f"| DataLoader with torchvision's transforms, {arguments.workers} workers | {median['theirs']:,.0f} |",
        "",
        f"Ratio: {median['ours'] / median['theirs']:.0f}.",
    ]
    (arguments.output / "data_speed.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
