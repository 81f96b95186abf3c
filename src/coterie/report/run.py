"""Reads a run folder into validated, typed records. Nothing is drawn, counted or formatted here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file

from coterie.errors import CoterieError
from coterie.recipe import Recipe, load_recipe
from coterie.run_folder import MetricsLog, RunFolder, read_json
from coterie.run_schema import ClassFigures, Environment, Figures, Measured, TrainRow, validated
from coterie.tasks import UNNAMED, sample_of
from coterie.tasks.figures import Figure, figures_of


class Record(BaseModel):
    """Base of the records; keys that the report does not use are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class GroupFigures(Record):
    """Figures of one evaluation of a group; ``deployed`` also holds the index of the deployed ``student``.

    ``per_class`` is set in the final evaluation only, and is empty in older runs.
    """

    deployed: Measured
    students: list[Measured] = Field(min_length=1)
    mean_student: Measured
    ensemble: dict[str, Measured] = {}
    diversity: Figures = {}
    statistics: dict[str, float | list[float]] = {}
    per_class: list[ClassFigures] = []

    @property
    def deployed_student(self) -> int:
        return int(self.deployed["student"])

    @model_validator(mode="after")
    def _check_together(self) -> GroupFigures:
        if not 0 <= self.deployed.get("student", -1) < len(self.students):
            raise ValueError("deployed.student is none of the students")
        return self


class ValidationRow(GroupFigures):
    epoch: int
    step: int


class BestValidation(Record):
    epoch: int


class Parameters(Record):
    trained: int
    deployed: int


class Seconds(Record):
    total: float
    per_epoch: float


class Summary(Record):
    """``summary.json``; an unfinished run has only the first keys."""

    model_config = ConfigDict(frozen=True, extra="allow")

    status: str = "running"
    task: str = UNNAMED  # not in older runs
    method: str
    data: str
    network: str
    split_point: str | None = None
    seed: int
    epochs: int
    epochs_trained: int | None = None  # not in older runs
    class_names: list[str] = []
    num_train: int
    num_validation: int
    num_test: int
    error: str | None = None
    split: str = "test"
    deployed_reason: str = ""  # not in older runs
    validation: GroupFigures | None = None
    selected_epoch: int | None = None
    best_validation: BestValidation | None = None
    parameters: Parameters | None = None
    seconds: Seconds | None = None
    images_per_second: float | None = None


@dataclass(frozen=True)
class Predictions:
    """Predictions for the samples of the final evaluation (the first 10,000 of them)."""

    logits: NDArray[np.float32]  # [n, N, K]
    ensemble: NDArray[np.float32]  # [N, K], the method's own
    labels: NDArray[np.int64]  # [N]
    indices: NDArray[np.int64]  # [N], indices in the data set


@dataclass(frozen=True)
class RunData:
    """All data of a report.

    Attributes:
        figures: figures of the final evaluation; None if the run ended before it.
        train_rows: losses over training.
        validation_rows: evaluations over training; empty without a validation split.
        predictions: predictions of the final evaluation; None if there are none.
        gallery: saved images by their index in the data set.
        texts: saved texts by their index in the data set; the two texts of a pair are joined.
    """

    folder: RunFolder
    recipe: Recipe
    environment: Environment
    summary: Summary
    figures: GroupFigures | None
    train_rows: list[TrainRow]
    validation_rows: list[ValidationRow]
    predictions: Predictions | None
    gallery: dict[int, Path]
    texts: dict[int, str]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes from the data; numbers if the run did not record them."""
        if self.predictions is None:
            return self.summary.class_names
        classes = self.predictions.logits.shape[-1]
        names = self.summary.class_names
        return names if len(names) == classes else [str(number) for number in range(classes)]

    @property
    def sample(self) -> str:
        """What one sample is called."""
        return sample_of(self.recipe.task)

    @property
    def declared(self) -> tuple[Figure, ...]:
        """The task's figures, the primary one first."""
        return figures_of(self.recipe.task)

    @property
    def on_train(self) -> float | None:
        """The primary figure of the deployed student on its own training samples; None if the run ended before that."""
        value = (self.summary.model_extra or {}).get(f"train_{self.declared[0].key}")
        return value if isinstance(value, (int, float)) else None


class Example(Record):
    """One of the saved texts."""

    index: int
    texts: list[str] = Field(min_length=1)


class Examples(Record):
    """``gallery/texts.json``."""

    examples: list[Example]


def read_run(path: str | Path, summary: dict[str, Any] | None = None) -> RunData:
    """Read a run folder, finished or not.

    Raises:
        CoterieError: the folder is not a run, or one of its files is damaged.
    """
    folder = RunFolder(path).require()
    summary = (folder.read_summary() or read_json(folder.summary)) if summary is None else summary
    recipe = load_recipe(folder.recipe, trust_code=True)  # a report imports no method
    rows = MetricsLog(folder.metrics, recipe.task).rows()
    figures = validated(GroupFigures, summary, folder.summary, recipe.task) if "students" in summary else None
    validation_rows = [
        validated(ValidationRow, row, folder.metrics, recipe.task) for row in rows if row.get("split") == "validation"
    ]
    # Predictions are written before the figures; without figures, a killed process left them.
    predictions = None
    if figures is not None and folder.predictions.is_file():
        predictions = _read_predictions(folder.predictions, len(figures.students))
    _require_alike(validation_rows, figures, folder.metrics)
    return RunData(
        folder=folder,
        recipe=recipe,
        environment=validated(Environment, folder.read_environment(), folder.environment),
        summary=validated(Summary, summary, folder.summary, recipe.task),
        figures=figures,
        train_rows=[validated(TrainRow, row, folder.metrics) for row in rows if row.get("split") == "train"],
        validation_rows=validation_rows,
        predictions=predictions,
        texts=_read_texts(folder.gallery / "texts.json"),
        gallery={int(image.stem): image for image in folder.gallery.glob("*.png") if image.stem.isdecimal()},
    )


def _require_alike(rows: Sequence[GroupFigures], final: GroupFigures | None, path: Path) -> None:
    """Checks that all evaluations of a run have the same number of students, and the same number of values in each statistic.

    Raises:
        CoterieError: the numbers differ.
    """
    every = [*rows, *([final] if final is not None else [])]
    if len({len(each.students) for each in every}) > 1:
        raise CoterieError(f"{str(path)!r} is damaged: its evaluations are not all of as many students")
    for name in sorted({name for each in every for name in each.statistics}):
        values = [each.statistics[name] for each in every if name in each.statistics]
        if len({len(value) if isinstance(value, list) else None for value in values}) > 1:
            raise CoterieError(
                f"{str(path)!r} is damaged: statistics.{name[:80]} has not as many numbers in each evaluation"
            )


def _read_texts(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    return {each.index: " / ".join(each.texts) for each in validated(Examples, read_json(path), path).examples}


def _read_predictions(path: Path, students: int) -> Predictions | None:
    """Reads the predictions; None if the task does not save class logits."""
    try:
        tensors = load_file(path)
        if "labels" not in tensors:
            return None
        predictions = Predictions(
            logits=tensors["logits"].astype(np.float32),
            ensemble=tensors["ensemble"].astype(np.float32),
            labels=tensors["labels"].astype(np.int64),
            indices=tensors["indices"].astype(np.int64),
        )
    except (SafetensorError, OSError, KeyError) as error:
        raise CoterieError(f"{str(path)!r} is damaged: {error}") from None
    shape = predictions.ensemble.shape
    fits = (
        len(shape) == 2
        and predictions.logits.shape == (students, *shape)
        and predictions.labels.shape == shape[:1]
        and predictions.indices.shape == shape[:1]
        and ((predictions.labels >= 0) & (predictions.labels < shape[1])).all()
    )
    if not fits:
        raise CoterieError(
            f"{str(path)!r} is damaged: its tensors are not of one number of students, samples and classes"
        )
    return predictions
