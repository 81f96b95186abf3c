"""Large images and their small counterparts, in memory or in files that are read when they are needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.data.decoding import read_image, upright_size
from coterie.errors import CoterieError, RunError

Pixels = NDArray[np.uint8]  # [H, W, 3]
KEPT = 16  # files whose pixels are cached, for the next square of the same image


@dataclass(frozen=True, eq=False)
class Picture:
    """One large image, or a part of one.

    Attributes:
        name: unique name, relative to its split's folder.
        source: a file, or its pixels.
        height, width: size of the part, in large pixels.
        left: left edge of the part, in large pixels.
        low: file of the small image; None: it is generated.
        scale: factor by which the small image is smaller.
    """

    name: str
    source: Path | Pixels
    height: int
    width: int
    left: int = 0
    low: Path | None = None
    scale: int = 1

    def strip(self, left: int, right: int) -> Picture:
        """Return the columns from ``left`` to ``right`` (exclusive)."""
        return replace(self, left=self.left + left, width=right - left)

    def cut(self, top: int, left: int, height: int, width: int) -> Tensor:
        """Return a part of the large image, float32 [3, height, width] in 0 to 1."""
        return _cut(self.source, top, self.left + left, height, width)

    def cut_low(self, top: int, left: int, height: int, width: int) -> Tensor:
        """Return the same part of the small image; all arguments are in large pixels, multiples of ``scale``."""
        assert self.low is not None
        numbers = (each // self.scale for each in (top, self.left + left, height, width))
        return _cut(self.low, *numbers)


def _cut(source: Path | Pixels, top: int, left: int, height: int, width: int) -> Tensor:
    pixels = read_pixels(source) if isinstance(source, Path) else source
    part = pixels[top : top + height, left : left + width].copy()
    if part.shape[:2] != (height, width):
        raise RunError(f"{str(source)!r} has another size than when the run began")
    return torch.from_numpy(part).permute(2, 0, 1).float() / 255


@lru_cache(maxsize=KEPT)
def read_pixels(path: Path) -> Pixels:
    """Read an image file as RGB, see :func:`coterie.data.decoding.read_image`.

    Raises:
        RunError: it cannot be decoded.
    """
    try:
        return np.asarray(read_image(path))
    except Exception as error:  # decoders raise many kinds
        raise RunError(f"cannot read the image {str(path)!r}: {' '.join(str(error).split())[:120]}") from None


def read_size(path: Path) -> tuple[int, int] | None:
    """Read height and width, upright, from a file's header; None if it is not an image."""
    try:
        return upright_size(path)
    except Exception:  # decoders raise many kinds
        return None


def embedded(name: str) -> dict[str, list[Picture]]:
    """Return training and test photographs of ``photos`` or ``more_photos``.

    Raises:
        CoterieError: scikit-image is not installed.
    """
    from sklearn.datasets import load_sample_images

    found = load_sample_images()
    own: dict[str, Any] = {Path(file).stem: image for file, image in zip(found.filenames, found.images, strict=True)}
    names = {"train": ["china"], "test": ["flower"]}
    if name == "more_photos":
        try:
            from skimage import data
        except ImportError:
            raise CoterieError(
                "data=more_photos needs the package scikit-image: pip install 'coterie[restoration]'"
            ) from None
        others = {"train": ["astronaut", "coffee", "rocket"], "test": ["chelsea"]}
        for split, several in others.items():
            own |= {each: getattr(data, each)() for each in several}
            names[split] += several
    return {split: [_in_memory(each, own[each]) for each in several] for split, several in names.items()}


def _in_memory(name: str, pixels: Any) -> Picture:
    array = np.ascontiguousarray(pixels[..., :3], dtype=np.uint8)
    return Picture(name, array, array.shape[0], array.shape[1])
