"""Pictures or texts to class names and probabilities, by a run's deployed student.

The preprocessing is the one that the student was evaluated with, read from ``student.json``; training has no part here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from coterie.errors import CoterieError
from coterie.run_folder import RunFolder
from coterie.student import load_student
from coterie.tasks.images.data.batch import DataInfo
from coterie.tasks.images.data.decoding import read_image, reason_of, upright
from coterie.tasks.images.data.streaming import evaluation_transform

BATCH_SIZE = 64
ALONE = 4 * BATCH_SIZE  # fewer pictures are decoded sooner than worker processes start

Picture = str | Path | Image.Image | np.ndarray[Any, Any]


@dataclass(frozen=True)
class Prediction:
    """What the student says of one sample.

    Attributes:
        path: the image file; None for a picture in memory and for a text.
        classes: the most probable classes and their probabilities, best first; empty where there is an ``error``.
        error: why the sample could not be read, in one line.
        text: the text, or the pair, of a run of texts.
    """

    path: Path | None
    classes: tuple[tuple[str, float], ...]
    error: str | None = None
    text: str | tuple[str, ...] | None = None


def predict(run: str | Path, images: Any, *, top: int = 5, network: nn.Module | None = None) -> list[Prediction]:
    """Classify pictures, or the texts of a run of texts, with the deployed student of a finished run.

    Args:
        run: the run folder.
        images: one picture or many: paths of files, PIL images, or arrays uint8 [H, W], [H, W, 1] or [H, W, 3] of any size.
            Of a run of texts: texts, or pairs of texts where it was trained on pairs.
        top: how many classes to return for each, at most as many as there are.
        network: the untrained network, where the run was trained on one's own.

    Returns:
        One prediction for each, in their order.

    Raises:
        CoterieError: no finished run, or a picture that is missing, cannot be decoded or is none.

    Example:
        >>> coterie.predict("runs/a", ["a.jpg", "b.jpg"])[0].classes[0]  # doctest: +SKIP
        ('cat', 0.98)
    """
    single = isinstance(images, (str, Path, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim < 4)
    predictions = []
    for prediction in iterate_predictions(run, [images] if single else list(images), top, network):
        if prediction.error is not None:
            raise CoterieError(prediction.error)
        predictions.append(prediction)
    return predictions


def predict_images(
    run: str | Path, paths: Sequence[str | Path], top: int = 5, network: nn.Module | None = None
) -> list[Prediction]:
    """:func:`predict` for image files alone; a run of texts is refused."""
    if _description(run).get("task") == "text_classification":
        raise CoterieError(f"the run {str(run)!r} was trained on texts, not images; pass it texts")
    return predict(run, list(paths), top=top, network=network)


def load_transform(run: str | Path) -> Any:
    """The preprocessing of a run's student: PIL image to float32 [C, H, W], by timm's transforms.

    The image must have the network's channels: ``image.convert("RGB")``, or ``"L"`` for one channel.

    Raises:
        CoterieError: no run, one without a student, or one of texts.
    """
    description = _description(run)
    if description.get("task") == "text_classification":
        raise CoterieError(f"the run {str(run)!r} was trained on texts, which have no transform; its tokenizer/ serves")
    return evaluation_transform(data_info(description))


def iterate_predictions(
    run: str | Path, samples: Sequence[Any], top: int = 5, network: nn.Module | None = None
) -> Iterator[Prediction]:
    """As :func:`predict`, one after the other; a sample that cannot be read gives a prediction with an ``error``.

    Raises:
        CoterieError: no finished run, or ``top`` below 1; before the first prediction.
    """
    if top < 1:
        raise CoterieError(f"top={top}: expected at least 1")
    student = load_student(run, network)
    description = _description(run)
    if description.get("task") == "text_classification":
        return _predict_texts(RunFolder(run), student, description, samples, top)
    return _predict_pictures(student, description, samples, top)


def _description(run: str | Path) -> dict[str, Any]:
    return RunFolder(run).require().read_description()


def _predict_pictures(
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
        generator=torch.Generator(),  # the global one is the caller's
    )
    number = 0
    for images, errors in loader:
        rows: Iterator[Any] = iter(())
        if images is not None:
            with torch.inference_mode():
                rows = iter(_best(student(images.to(device)), description, top))
        for error in errors:
            sample = samples[number]
            path = Path(sample) if isinstance(sample, (str, Path)) else None
            yield Prediction(path, next(rows) if error is None else (), error)
            number += 1


def _decodes_apart(count: int) -> bool:
    return count > ALONE and hasattr(os, "sched_getaffinity")


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def _best(logits: Tensor, description: dict[str, Any], top: int) -> list[tuple[tuple[str, float], ...]]:
    """Names and probabilities of the most probable classes for logits [B, K]."""
    names = description["class_names"]
    best, positions = logits.float().softmax(-1).topk(min(top, len(names)))
    return [
        tuple((names[index], value) for index, value in zip(indices, values, strict=True))
        for values, indices in zip(best.tolist(), positions.tolist(), strict=True)
    ]


class _Pictures(Dataset["Tensor | str"]):
    """Pictures as the network takes them, float [C, H, W], or why one cannot be read.

    Errors travel as values: one that is raised in a worker would end the others.
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
    """The pictures that could be read, stacked, and for each item its error or None."""
    images = [item for item in items if isinstance(item, Tensor)]
    return torch.stack(images) if images else None, [item if isinstance(item, str) else None for item in items]


def _picture(sample: Picture, number: int, channels: int) -> Image.Image:
    """A picture as grey (1 channel) or RGB.

    Raises:
        CoterieError: it is missing, cannot be decoded or is none.
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
        # Pillow decodes late, and its readers raise many kinds on a damaged file.
        except Exception as error:
            raise CoterieError(f"image {number} cannot be decoded: {reason_of(error, '')}") from None
    raise CoterieError(f"image {number} is {type(sample).__name__}: expected a path, a PIL image or an array")


def data_info(description: dict[str, Any]) -> DataInfo:
    """What ``student.json`` says of the data."""
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
    """Image files as a normalised batch.

    Args:
        paths: image files.
        description: contents of ``student.json``.

    Returns:
        float32 [B, C, H, W].

    Raises:
        CoterieError: an image that is missing or cannot be decoded.
    """
    info = data_info(description)
    transform = evaluation_transform(info)
    return torch.stack([transform(_decode(path, info.input_size[0])) for path in paths])


def _decode(path: Path, channels: int) -> Image.Image:
    """Read one image as grey (1 channel) or RGB."""
    if not path.exists():
        raise CoterieError(f"no image {str(path)!r}")
    if not path.is_file():  # a pipe would be waited for
        raise CoterieError(f"{str(path)!r} is not an image that can be decoded: it is no regular file")
    try:
        return read_image(path, grey=channels == 1)
    # Pillow's readers raise many kinds on a damaged file.
    except Exception as error:
        raise CoterieError(f"{str(path)!r} is not an image that can be decoded: {reason_of(error, path)}") from None


def _predict_texts(
    folder: RunFolder, student: nn.Module, description: dict[str, Any], samples: Sequence[Any], top: int
) -> Iterator[Prediction]:
    from coterie.tasks.texts.sequence_classifier import read_tokenizer

    columns = text_columns(folder)
    tokenizer = read_tokenizer(folder.tokenizer)
    texts = [_texts(sample, number, columns) for number, sample in enumerate(samples)]
    segments = (getattr(student.config, "type_vocab_size", None) or 0) > 1
    for start in range(0, len(texts), BATCH_SIZE):
        batch = texts[start : start + BATCH_SIZE]
        inputs = tokenizer(
            *[list(column) for column in zip(*batch, strict=True)],
            truncation=True,
            max_length=description["max_length"],
            padding=True,
            return_token_type_ids=segments,
            return_attention_mask=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            logits = student(**inputs).logits
        for text, classes in zip(batch, _best(logits, description, top), strict=True):
            yield Prediction(None, classes, text=text[0] if columns == 1 else text)


def text_columns(folder: RunFolder) -> int:
    """Whether a run of texts was trained on texts (1) or pairs (2)."""
    from coterie.recipe import load_recipe
    from coterie.tasks.texts.settings import data_of

    return len(data_of(load_recipe(folder.recipe, trust_code=True)).columns)  # no method is imported for this


def _texts(sample: Any, number: int, columns: int) -> tuple[str, ...]:
    """A text, or a pair, as a tuple."""
    texts = (sample,) if isinstance(sample, str) else tuple(sample) if isinstance(sample, (tuple, list)) else ()
    if len(texts) != columns or not all(isinstance(text, str) for text in texts):
        raise CoterieError(f"sample {number}: expected {'a text' if columns == 1 else 'a pair of texts'}")
    return texts
