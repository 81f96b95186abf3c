"""Predicts class names and probabilities of images with a run's deployed student.

The preprocessing is that of the student's evaluation, read from ``student.json``. No training code is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from coterie.data.decoding import read_image, reason_of, upright
from coterie.errors import CoterieError
from coterie.run_folder import RunFolder
from coterie.student import task_of
from coterie.tasks.images.data.batch import DataInfo
from coterie.tasks.images.data.streaming import evaluation_transform
from coterie.tasks.prediction import Prediction, best_classes

BATCH_SIZE = 64
ALONE = 4 * BATCH_SIZE  # up to this number of images, decoding is faster than starting worker processes

Picture = str | Path | Image.Image | np.ndarray[Any, Any]


def load_transform(run: str | Path) -> Any:
    """Returns the preprocessing of a run's student, built from timm's transforms: PIL image to float32 [C, H, W].

    The image must have the network's channels: ``image.convert("RGB")``, or ``"L"`` for one channel.

    Raises:
        CoterieError: the folder holds no run, the run has no student, or it was not trained on images.
    """
    description = RunFolder(run).require().read_description()
    if "input_size" not in description:
        raise CoterieError(
            f"the run {str(run)!r} was trained on task={task_of(description)}: its samples have no transform of images"
        )
    return evaluation_transform(data_info(description))


def predict_pictures(
    student: nn.Module, description: dict[str, Any], samples: Sequence[Picture], top: int
) -> Iterator[Prediction]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student.to(device)
    loader = DataLoader(
        _Pictures(samples, description),
        batch_size=BATCH_SIZE,
        num_workers=len(os.sched_getaffinity(0)) if _decodes_apart(len(samples)) else 0,
        collate_fn=_collate,
        worker_init_fn=_one_thread,
        generator=torch.Generator(),  # do not advance the global generator
    )
    number = 0
    for images, errors in loader:
        rows: Iterator[Any] = iter(())
        if images is not None:
            with torch.inference_mode():
                rows = iter(best_classes(student(images.to(device)), description["class_names"], top))
        for error in errors:
            sample = samples[number]
            path = Path(sample) if isinstance(sample, (str, Path)) else None
            yield Prediction(path, next(rows) if error is None else (), error)
            number += 1


def _decodes_apart(count: int) -> bool:
    return count > ALONE and hasattr(os, "sched_getaffinity")


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


class _Pictures(Dataset["Tensor | str"]):
    """Preprocessed images, float [C, H, W], or an error message for an image that cannot be read.

    Errors are returned as values, because an exception in a worker would end the iteration.
    """

    def __init__(self, samples: Sequence[Picture], description: dict[str, Any]) -> None:
        info = data_info(description)
        self.samples, self.channels, self.transform = samples, info.input_size[0], evaluation_transform(info)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Tensor | str:
        try:
            result: Tensor = self.transform(_picture(self.samples[number], number, self.channels))
        except CoterieError as error:
            return str(error)
        return result


def _collate(items: list[Tensor | str]) -> tuple[Tensor | None, list[str | None]]:
    """Stacks the images that could be read; returns them and, for each item, its error or None."""
    images = [item for item in items if isinstance(item, Tensor)]
    return torch.stack(images) if images else None, [item if isinstance(item, str) else None for item in items]


def _picture(sample: Picture, number: int, channels: int) -> Image.Image:
    """Converts a sample to a grey (1 channel) or RGB image.

    Raises:
        CoterieError: the image is missing or cannot be decoded, or the sample is of another type.
    """
    if isinstance(sample, (str, Path)):
        return _decode(Path(sample), channels)
    if isinstance(sample, np.ndarray):
        shape, fits = sample.shape, sample.ndim == 2 or (sample.ndim == 3 and sample.shape[2] in {1, 3})
        if sample.dtype != np.uint8 or not fits or 0 in shape:
            raise CoterieError(
                f"image {number} is {sample.dtype} {list(shape)}: expected an array uint8 [H, W], [H, W, 1] or [H, W, 3]"
            )
        return upright(
            Image.fromarray(sample.squeeze(2) if sample.ndim == 3 and shape[2] == 1 else sample), channels == 1
        )
    if isinstance(sample, Image.Image):
        try:
            return upright(sample, channels == 1)
        # Pillow decodes lazily, and its readers raise many types on a damaged file.
        except Exception as error:
            raise CoterieError(f"image {number} cannot be decoded: {reason_of(error, '')}") from None
    raise CoterieError(f"image {number} is {type(sample).__name__}: expected a path, a PIL image or an array")


def data_info(description: dict[str, Any]) -> DataInfo:
    """Returns the data's description from ``student.json``."""
    return DataInfo(
        description["data"],
        tuple(description["class_names"]),
        tuple(description["input_size"]),
        tuple(description["mean"]),
        tuple(description["std"]),
        description["interpolation"],
        description["crop"],
    )


def load_images(paths: Sequence[Path], description: dict[str, Any]) -> Tensor:
    """Loads image files as a normalised batch.

    Args:
        paths: image files.
        description: content of ``student.json``.

    Returns:
        float32 [B, C, H, W].

    Raises:
        CoterieError: an image is missing or cannot be decoded.
    """
    info = data_info(description)
    transform = evaluation_transform(info)
    return torch.stack([transform(_decode(path, info.input_size[0])) for path in paths])


def _decode(path: Path, channels: int) -> Image.Image:
    """Read one image as grey (1 channel) or RGB."""
    if not path.exists():
        raise CoterieError(f"no image {str(path)!r}")
    if not path.is_file():  # reading a pipe would block
        raise CoterieError(f"{str(path)!r} is not an image that can be decoded: it is no regular file")
    try:
        return read_image(path, grey=channels == 1)
    # Pillow's readers raise many types on a damaged file.
    except Exception as error:
        raise CoterieError(f"{str(path)!r} is not an image that can be decoded: {reason_of(error, path)}") from None
