"""Splits CIFAR-100 into files small enough to copy to another machine, and joins them there.

    python -m benchmarks.images.cifar_parts --root CIFAR100 --output FOLDER [--limit 60]

writes FOLDER/train_0.npz, train_1.npz, ... and test_0.npz, each below the limit in MiB, with uint8 images and labels. The images are
in a fixed random order, so that every part holds all classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.shared import script_parser


def pack(root: Path, output: Path, limit: float = 60.0) -> list[Path]:
    """Write the parts of CIFAR-100 in any form that ``data.root`` accepts."""
    from coterie.tasks.images.data.sources import read_source
    from coterie.tasks.images.settings import ImageData

    raw = read_source(ImageData(name="cifar100", root=str(root)))
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for split, arrays in (("train", raw.train), ("test", raw.test)):
        assert arrays is not None, split
        images = np.stack([arrays.pixels(number) for number in range(len(arrays))])
        labels = np.asarray(arrays.labels)
        order = np.random.default_rng(0).permutation(len(labels))
        # Photographs hardly shrink under compression, so the raw size determines the parts.
        for number, part in enumerate(np.array_split(order, max(1, -(-images.nbytes // int(limit * 2**20))))):
            path = output / f"{split}_{number}.npz"
            np.savez_compressed(path, images=images[part], labels=labels[part])
            written.append(path)
    return written


def join(folder: Path, output: Path) -> Path:
    """Return a folder that ``data.root`` accepts: the given one, or ``output`` with the parts of each split joined.

    Raises:
        FileNotFoundError: the folder has neither data nor parts.
    """
    if not list(folder.glob("train_*.npz")):
        if not any(folder.iterdir()):
            raise FileNotFoundError(f"{folder} is empty")
        return folder
    output.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        whole = output / f"{split}.npz"
        if whole.is_file():
            continue
        parts = []
        for path in sorted(folder.glob(f"{split}_*.npz")):
            with np.load(path, allow_pickle=False) as file:
                parts.append((file["images"], file["labels"]))
        partial = output / f"{split}.partial.npz"
        np.savez(
            partial,
            images=np.concatenate([each for each, _ in parts]),
            labels=np.concatenate([each for _, each in parts]),
        )
        partial.rename(whole)
    return output


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=60.0, help="MiB of a part, before compression")
    arguments = parser.parse_args()
    for path in pack(arguments.root, arguments.output, arguments.limit):
        print(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
