"""Writes folders that resemble a user's own pictures: subsets of CIFAR and digits, as train/, val/ and test/ with class folders.

    python -m benchmarks.own_images.folders --cifar10 FOLDER --cifar100 FOLDER --output DIR

The validation split is large (1,000 images or more, standard error of a share near one half: 1.6 points), because settings are compared
on it and a small one would choose by chance. CIFAR folders hold train.npz and test.npz, see ``coterie.tasks.images.data.npz``.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.shared import script_parser
from coterie.tasks.images.data.raw import Arrays
from coterie.tasks.images.data.sources import digits, read_source
from coterie.tasks.images.settings import ImageData


@dataclass(frozen=True)
class Setting:
    """One folder: its classes, the number of training images of each, the image size and the file format."""

    source: str
    counts: tuple[int, ...]  # training images of each class
    validation: int  # images of each class
    side: int
    suffix: str = ".jpg"
    first: int = 0  # index, in a seeded order, of the first class


UNEQUAL = (200, 120, 80, 50, 30, 20, 15, 10, 8, 5)
SETTINGS = {
    "classes8": Setting("cifar100", (40,) * 8, 125, 64),
    "classes20": Setting("cifar100", (25,) * 20, 50, 64, first=8),
    "classes100": Setting("cifar100", (25,) * 100, 20, 64),
    "unequal": Setting("cifar100", UNEQUAL, 100, 96, first=28),
    "cifar10": Setting("cifar10", (200,) * 10, 100, 32),
    "digits": Setting("digits", (60,) * 10, 60, 8, ".png"),
}


def write_setting(name: str, root: Path | None, output: Path) -> Path:
    """Write the setting's folder, unless it exists; return it."""
    setting, folder = SETTINGS[name], output / name
    if (folder / "complete").is_file():
        return folder
    raw = (
        digits()
        if setting.source == "digits"
        else read_source(ImageData(name=setting.source, root=str(root), validation=0))
    )
    train, test = raw.train, raw.test
    assert isinstance(train, Arrays)
    assert isinstance(test, Arrays)
    random = np.random.default_rng(0)
    classes = random.permutation(len(raw.class_names))[setting.first : setting.first + len(setting.counts)]
    for number, count in zip(classes, setting.counts, strict=True):
        kept = random.permutation(np.flatnonzero(train.labels == number))
        parts = {
            "train": train.images[kept[:count]],
            "val": train.images[kept[count : count + setting.validation]],
            "test": test.images[test.labels == number],
        }
        for split, images in parts.items():
            _write(folder / split / raw.class_names[number], images, setting)
    (folder / "complete").touch()
    return folder


def _write(folder: Path, images: NDArray[np.uint8], setting: Setting) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(images):
        image = Image.fromarray(pixels.squeeze())
        if image.width != setting.side:
            image = image.resize((setting.side, setting.side), Image.Resampling.BICUBIC)
        content = io.BytesIO()
        image.save(content, "png" if setting.suffix == ".png" else "jpeg", quality=92)
        (folder / f"{number:04d}{setting.suffix}").write_bytes(content.getvalue())


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--cifar10", type=Path, required=True)
    parser.add_argument("--cifar100", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    for name, setting in SETTINGS.items():
        print(write_setting(name, getattr(arguments, setting.source, None), arguments.output))


if __name__ == "__main__":
    main()
