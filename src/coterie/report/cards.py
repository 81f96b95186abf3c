"""Samples that a report shows individually: those the students disagree on, and errors of the deployed student."""

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
    """One student's prediction for a sample, with its confidence."""

    student: int
    name: str
    confidence: float
    right: bool


class Card(NamedTuple):
    """One sample, an image or a text, its true class and the students' answers.

    Attributes:
        address: the image as a data URL; empty for a text.
        text: the text; empty for an image.
        pixelated: whether the image is so small that it should be scaled without interpolation.
        number: the sample's index in its data set.
        label: name of the true class.
        label_probability: probability of the true class by the first student in ``answers``.
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
    """Returns the samples on which the students disagree, most disputed first; empty for a single network.

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
    """Returns the deployed student's errors, most confident first.

    Empty if the run did not save the samples of its most confident errors, for example a run that saved only disputed samples.

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
