"""Enlarges small images with a run's network, and writes them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from coterie.data.decoding import UnreadableImage, read_image, upright
from coterie.errors import CoterieError
from coterie.files import write_stream
from coterie.networks.one_step.generator import OneStepGenerator
from coterie.networks.one_step.tiles import in_tiles


@dataclass(frozen=True)
class Restored:
    """One enlarged image.

    Attributes:
        sample: the sample as given.
        image: the enlarged image; None if there is an ``error``.
        file: file that it was written to; None: none.
        error: why the sample could not be read, in one line.
    """

    sample: Any
    image: Image.Image | None
    file: Path | None = None
    error: str | None = None

    def record(self) -> dict[str, Any]:
        """See :class:`coterie.tasks.prediction.Answer`."""
        return {"output": str(self.file) if self.file else None, "size": self._size()}

    def row(self) -> dict[str, str]:
        """See :class:`coterie.tasks.prediction.Answer`."""
        return {"output": str(self.file or ""), "size": self._size()}

    def lines(self) -> list[str]:
        """See :class:`coterie.tasks.prediction.Answer`."""
        return [f"{self._size()} pixels, {self.file or 'not written: name a folder by --output'}"]

    def _size(self) -> str:
        return "x".join(map(str, self.image.size)) if self.image else ""


def enlarge(
    generator: OneStepGenerator, samples: Sequence[Any], output: str, tile: int, overlap: int
) -> Iterator[Restored]:
    """Enlarge samples.

    Args:
        generator: the run's network.
        samples: paths, PIL images, or uint8 arrays [H, W, 3].
        output: folder for the files ``<name>.png``; empty: none.
        tile, overlap: see :func:`coterie.networks.one_step.tiles.in_tiles`.

    Raises:
        CoterieError: the folder cannot be created, or two samples would be written to the same file. Raised before the first answer.
    """
    folder = Path(output).expanduser() if output else None
    places = _places(folder, samples)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator.to(device).eval()
    for sample, place in zip(samples, places, strict=True):
        try:
            low = _read(sample)
        except CoterieError as error:
            yield Restored(sample, None, error=str(error))
            continue
        with torch.inference_mode():
            found = in_tiles(generator, low[None].to(device), generator.scale, tile, overlap)[0]
        pixels = (found.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        image = Image.fromarray(pixels)
        if place is not None:
            _write(image, place)
        yield Restored(sample, image, place)


def _write(image: Image.Image, place: Path) -> None:
    """Write a PNG file atomically."""
    stream = io.BytesIO()
    image.save(stream, "PNG")

    def write(file: io.RawIOBase) -> None:
        file.write(stream.getvalue())

    write_stream(place, write)


def _places(folder: Path | None, samples: Sequence[Any]) -> list[Path | None]:
    """Return an output file for each sample, by its name or its index."""
    if folder is None:
        return [None] * len(samples)
    names = [
        Path(each).stem if isinstance(each, (str, Path)) else f"{number:04}" for number, each in enumerate(samples)
    ]
    if twice := [name for name in names if names.count(name) > 1]:
        raise CoterieError(
            f"two images are called {twice[0]!r}, and would be written to one file; enlarge them in two steps"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CoterieError(f"cannot write to {str(folder)!r}: {error.strerror}") from None
    for name, sample in zip(names, samples, strict=True):
        if (
            isinstance(sample, (str, Path))
            and (folder / f"{name}.png").resolve() == Path(sample).expanduser().resolve()
        ):
            raise CoterieError(
                f"{str(sample)!r} would be overwritten by its enlarged image; choose another output folder"
            )
    return [folder / f"{name}.png" for name in names]


def _read(sample: Any) -> Tensor:
    """Read a sample as float32 [3, h, w] in 0 to 1.

    Raises:
        CoterieError: it is not an image.
    """
    if isinstance(sample, (str, Path)):
        try:
            sample = read_image(Path(sample).expanduser())
        except Exception as error:  # decoders raise many kinds
            raise CoterieError(f"cannot read the image {str(sample)!r}: {' '.join(str(error).split())[:120]}") from None
    if isinstance(sample, Image.Image):
        try:
            sample = np.asarray(upright(sample))
        except UnreadableImage as error:
            raise CoterieError(f"a {sample.mode} image cannot be used: {error}") from None
    if not isinstance(sample, np.ndarray) or sample.dtype != np.uint8 or sample.ndim != 3 or sample.shape[2] != 3:
        raise CoterieError(f"{type(sample).__name__}: expected a path, a PIL image or an array uint8 [H, W, 3]")
    return torch.from_numpy(np.array(sample)).permute(2, 0, 1).float() / 255
