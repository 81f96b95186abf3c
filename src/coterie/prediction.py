"""Image files to class names and probabilities, by a run's deployed student.

The preprocessing is the one that the student was evaluated with, read from ``student.json``; training has no part here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from coterie.data.batch import DataInfo
from coterie.data.decoding import read_image, reason_of
from coterie.data.streaming import evaluation_transform
from coterie.errors import CoterieError
from coterie.student import load_student
from coterie.training.records import RunFolder, read_json

BATCH_SIZE = 64


@dataclass(frozen=True)
class Prediction:
    """What the student says of one image.

    Attributes:
        path: the image file.
        classes: the most probable classes and their probabilities, best first.
    """

    path: Path
    classes: tuple[tuple[str, float], ...]


@torch.inference_mode()
def predict_images(
    run: str | Path, paths: Sequence[str | Path], top: int = 5, network: nn.Module | None = None
) -> list[Prediction]:
    """Classify image files with the deployed student of a finished run.

    Args:
        run: the run folder.
        paths: image files of any size; whatever Pillow reads.
        top: how many classes to return for each image, at most as many as there are.
        network: the untrained network, where the run was trained on one's own.

    Returns:
        One prediction for each path, in their order.

    Raises:
        CoterieError: no finished run, or an image that is missing or cannot be decoded.
    """
    if top < 1:
        raise CoterieError(f"top={top}: expected at least 1")
    student = load_student(run, network)
    description = read_json(RunFolder(run).student_description)
    if description.get("task") == "text_classification":
        raise CoterieError(f"the run {str(run)!r} was trained on texts, not images; export it as transformers")
    names = description["class_names"]
    files = [Path(path) for path in paths]
    predictions: list[Prediction] = []
    for start in range(0, len(files), BATCH_SIZE):
        chunk = files[start : start + BATCH_SIZE]
        probabilities = student(load_images(chunk, description)).softmax(-1)
        best, positions = probabilities.topk(min(top, len(names)))
        for path, values, indices in zip(chunk, best.tolist(), positions.tolist(), strict=True):
            classes = tuple((names[index], value) for index, value in zip(indices, values, strict=True))
            predictions.append(Prediction(path, classes))
    return predictions


def load_images(paths: Sequence[Path], description: dict[str, Any]) -> Tensor:
    """Image files as a normalised batch.

    Args:
        paths: image files.
        description: contents of ``student.json``.

    Returns:
        float32 [B, C, H, W].

    Raises:
        CoterieError: an image that is missing or cannot be decoded.
    """
    info = DataInfo(
        description["data"],
        tuple(description["class_names"]),
        tuple(description["input_size"]),
        tuple(description["mean"]),
        tuple(description["std"]),
        description["interpolation"],
        description["crop"],
    )
    transform = evaluation_transform(info)
    return torch.stack([transform(_decode(path, info.input_size[0])) for path in paths])


def _decode(path: Path, channels: int) -> Image.Image:
    """Read one image as grey (1 channel) or RGB."""
    if not path.exists():
        raise CoterieError(f"no image {str(path)!r}")
    try:
        return read_image(path, grey=channels == 1)
    # Pillow's readers raise many kinds on a damaged file.
    except Exception as error:
        raise CoterieError(f"{str(path)!r} is not an image that can be decoded: {reason_of(error, path)}") from None
