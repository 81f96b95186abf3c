"""The samples that a report shows one by one: what the students disagree on, and what the deployed one gets wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coterie.errors import CoterieError
from coterie.metrics.notable import most_confident_errors, most_disputed, probabilities_of
from coterie.report.gallery import inline_image
from coterie.report.run import RunData


class Answer(NamedTuple):
    """What one student takes a sample for, and how sure it is."""

    student: int
    name: str
    confidence: float
    right: bool


class Card(NamedTuple):
    """One sample, an image or a text, its true class and the students' answers.

    Attributes:
        address: of the image, as text; empty for a text.
        text: empty for an image.
        pixelated: the image is so small that its pixels should be shown as squares.
        number: the sample's place in its data set.
        label: name of the true class.
        label_probability: what the first of the answering students gives the true class.
        answers: one for each student that is shown.
    """

    address: str
    text: str
    pixelated: bool
    number: int
    label: str
    label_probability: float
    answers: list[Answer]


def disputed_cards(run: RunData) -> list[Card]:
    """Samples that the students differ on, most disputed first; none of a single network.

    Raises:
        CoterieError: an image is damaged.
    """
    if run.predictions is None or len(run.predictions.logits) == 1:
        return []
    logits, labels = run.predictions.logits, run.predictions.labels
    saved = np.flatnonzero(np.isin(run.predictions.indices, [*run.gallery, *run.texts]))
    ranked = saved[most_disputed(logits[:, saved], labels[saved])]
    return [_card(run, int(position), range(len(logits))) for position in ranked]


def error_cards(run: RunData, deployed: int) -> list[Card]:
    """The deployed student's errors, most confident first.

    A run that kept only what is disputed has none: among those samples the most confident errors are others than among all.

    Raises:
        CoterieError: an image is damaged.
    """
    if run.predictions is None:
        return []
    ranked = most_confident_errors(run.predictions.logits[deployed], run.predictions.labels)
    if not {*run.predictions.indices[ranked].tolist()} <= {*run.gallery, *run.texts}:
        return []
    return [_card(run, int(position), [deployed]) for position in ranked]


def _card(run: RunData, position: int, students: Sequence[int]) -> Card:
    assert run.predictions is not None
    index, label = int(run.predictions.indices[position]), int(run.predictions.labels[position])
    probabilities: NDArray[np.float32] = probabilities_of(run.predictions.logits[:, position])
    answers = []
    for student in students:
        predicted = int(probabilities[student].argmax())
        confidence = float(probabilities[student, predicted])
        answers.append(Answer(student, run.class_names[predicted], confidence, predicted == label))
    address, pixelated = "", False
    try:
        if index in run.gallery:
            address, pixelated = inline_image(run.gallery[index])
    except OSError as error:
        raise CoterieError(f"{str(run.gallery[index])!r} is damaged: {error}") from None
    return Card(
        address=address,
        text=run.texts.get(index, ""),
        pixelated=pixelated,
        number=index,
        label=run.class_names[label],
        label_probability=float(probabilities[students[0], label]),
        answers=answers,
    )
