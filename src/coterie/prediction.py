"""Predictions of a run's deployed student on new samples. The run's task defines what samples and answers are."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from torch import nn

from coterie.errors import CoterieError, did_you_mean
from coterie.run_folder import RunFolder
from coterie.student import load_student, task_of
from coterie.tasks import find_part
from coterie.tasks.prediction import Answer

NUMBERS: dict[str, tuple[type, str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
}  # by annotation


def predict(run: str | Path, samples: Any, *, network: nn.Module | None = None, **options: Any) -> list[Any]:
    """Run the deployed student of a finished run on samples.

    Args:
        run: the run folder.
        samples: one or many. Images: paths of files, PIL images, or arrays uint8 [H, W], [H, W, 1] or [H, W, 3] of any size.
            Texts: strings, or pairs of strings if the run was trained on pairs. Language models: prompts.
        network: the untrained network, if the run was trained on a custom module.
        options: options of the task. Classification has ``top``, the number of classes to return for each sample, at most as many as there are (5).

    Returns:
        One answer for each sample, in order; for classification a :class:`coterie.Prediction`.

    Raises:
        CoterieError: the run is not finished, a sample is missing or cannot be read, or an option is unknown.

    Example:
        >>> coterie.predict("runs/a", ["a.jpg", "b.jpg"])[0].classes[0]  # doctest: +SKIP
        ('cat', 0.98)
    """
    is_one = _asked(task_of(RunFolder(run).require().read_description())).is_one
    answers = []
    for answer in iterate_predictions(run, [samples] if is_one(samples) else list(samples), network, **options):
        if answer.error is not None:
            raise CoterieError(answer.error)
        answers.append(answer)
    return answers


def iterate_predictions(
    run: str | Path, samples: Sequence[Any], network: nn.Module | None = None, **options: Any
) -> Iterator[Answer]:
    """Like :func:`predict`, but yields one answer at a time; a sample that cannot be read gives an answer with an ``error``.

    Raises:
        CoterieError: the run is not finished, or the task does not take an option; raised before the first answer.
    """
    folder = RunFolder(run).require()
    description = folder.read_description()
    task = task_of(description)
    predict = _asked(task).predict
    known = [name for name, each in inspect.signature(predict).parameters.items() if each.kind is each.KEYWORD_ONLY]
    for name, value in options.items():
        if name not in known:
            raise CoterieError(
                f"{name}={value!r} is no option of task={task}{did_you_mean(name, known)}; expected {', '.join(known)}"
            )
        _require_number(name, value, inspect.signature(predict).parameters[name].annotation)
    answers: Iterator[Answer] = predict(folder, load_student(run, network), description, samples, **options)
    return answers


def _require_number(name: str, value: object, annotation: Any) -> None:
    """Checks an option's value if its annotation is a number.

    Raises:
        CoterieError: the value is of another kind.
    """
    annotation = str(getattr(annotation, "__name__", annotation))
    if value is None and annotation.endswith(" | None"):
        return
    kind, called = NUMBERS.get(annotation.removesuffix(" | None"), (object, ""))
    if not isinstance(value, kind) or (called and isinstance(value, bool)):
        raise CoterieError(f"{name}={value!r}: expected {called}")


def _asked(task: str) -> Any:
    """Returns the task's module that predicts.

    Raises:
        CoterieError: the task has none.
    """
    found = find_part(task, "deployed")
    if not hasattr(found, "predict"):
        raise CoterieError(f"task={task} says nothing of new samples; coterie.load_student(RUN) is its network")
    return found
