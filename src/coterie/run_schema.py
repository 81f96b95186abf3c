"""Schemas of the files of a run. Files are validated when they are read, so that code that uses them never meets a missing key or a wrong type.

Additional keys are kept; values are never converted to fit.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from coterie.errors import CoterieError
from coterie.tasks import UNNAMED
from coterie.tasks.figures import Figure, figures_of

LARGEST_SIDE = 2**14  # pixels
LARGEST_LENGTH = 2**20  # tokens
SHOWN = 200  # characters of a message


def _declared(info: ValidationInfo) -> tuple[Figure, ...]:
    figures: tuple[Figure, ...] = (info.context or {}).get("figures", ())
    return figures


def _require_all(figures: dict[str, float], info: ValidationInfo) -> dict[str, float]:
    """Requires all figures that the run's task declares, except optional ones."""
    if missing := [each.key for each in _declared(info) if not each.optional and each.key not in figures]:
        raise ValueError(f"the figure {missing[0]} is missing")
    return figures


Figures = dict[str, float]  # key of a figure -> value
Measured = Annotated[Figures, AfterValidator(_require_all)]  # of one classifier
Count = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


class Content(BaseModel):
    """Base of the JSON models. Types are strict: 1 is not accepted as text, nor "1" as a number."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


def _require_numbers(values: dict[str, Any], keys: list[str]) -> None:
    for key in keys:
        value = values.get(key, 0.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{key} is no number")


AnyModel = TypeVar("AnyModel", bound=BaseModel)


def validated(model: type[AnyModel], value: object, path: Path, task: str | None = None) -> AnyModel:
    """Validates a value and returns it as a model.

    Args:
        model: the expected model.
        value: the value as it was read.
        path: the file that the value comes from.
        task: the task whose figures are required; None: the value's own ``task``.

    Raises:
        CoterieError: the file is damaged (the message says where, and what was expected), or its task is unknown.
    """
    own = value.get("task", UNNAMED) if task is None and isinstance(value, dict) else task
    try:
        figures = figures_of(own if isinstance(own, str) else UNNAMED)
    except CoterieError as error:
        raise CoterieError(f"{str(path)!r} cannot be read: {error}") from None
    try:
        return model.model_validate(value, context={"figures": figures})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        where = f"{key}: " if key else ""
        raise CoterieError(f"{str(path)!r} is damaged: {where[:80]}{first['msg'][:SHOWN]}") from None


class Student(Content):
    """``student.json``: the keys that all tasks share."""

    network: str | None
    method: str
    data: str
    student: Count
    figures: Measured


class ClassStudent(Student):
    num_classes: Annotated[int, Field(ge=1)]
    class_names: list[str]

    @model_validator(mode="after")
    def _check_classes(self) -> ClassStudent:
        if len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class_names for {self.num_classes} classes")
        return self


class Deployed(Content):
    """The deployed student's index and figures."""

    student: Count
    balanced_accuracy: float = 0.0

    @model_validator(mode="after")
    def _check_figures(self, info: ValidationInfo) -> Deployed:
        _require_all(self.model_extra or {}, info)
        _require_numbers(self.model_extra or {}, [each.key for each in _declared(info)])
        return self


class Evaluated(Content):
    """One evaluation: the keys that every evaluation has. Not every task has ensembles and diversity."""

    students: list[Measured] = Field(min_length=1)
    deployed: Deployed
    mean_student: Measured
    ensemble: dict[str, Measured] = {}
    diversity: Figures = {}

    @model_validator(mode="after")
    def _check_together(self) -> Evaluated:
        if self.deployed.student >= len(self.students):
            raise ValueError("deployed.student is none of the students")
        return self


class TrainRow(Content):
    """A line of ``metrics.jsonl``: mean losses since the previous row."""

    split: Literal["train"]
    epoch: Count
    step: Count
    losses: Figures
    learning_rate: float = 0.0


class ValidationRow(Evaluated):
    """A line of ``metrics.jsonl``: an evaluation after an epoch."""

    split: Literal["validation"]
    epoch: Count
    step: Count


class ClassFigures(Content):
    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: Count


class Seconds(Content):
    total: float = 0.0
    training: float = 0.0
    per_epoch: float


class SomeSeconds(Content):
    training: float | None = None


class Summary(Content):
    """``summary.json`` at any time of a run: no key is required, but values have the right types."""

    status: str = "running"
    error: str | None = None
    task: str = UNNAMED  # not in older runs
    method: str = ""
    data: str = ""
    network: str = ""
    split_point: str | None = None
    split: str = "test"
    seed: int = 0
    epochs: Count = 0
    epochs_trained: Count | None = None  # not in older runs
    class_names: list[str] = []
    data_notes: list[str] = []
    num_train: Count = 0
    num_validation: Count = 0
    num_test: Count = 0
    num_skipped: Count = 0
    own_teachers: Count = 0
    deployed_reason: str = ""
    leader: Count | None = None
    students: list[Measured] = []
    mean_student: Measured = {}
    ensemble: dict[str, Measured] = {}
    per_class: list[ClassFigures] = []
    seconds: SomeSeconds | None = None


class FinishedSummary(Evaluated):
    """``summary.json`` of a finished run."""

    status: Literal["finished"]
    task: str = UNNAMED  # not in older runs
    method: str
    data: str
    network: str
    split_point: str | None
    split: Literal["train", "validation", "test"]
    epochs: Count
    class_names: list[str] = []
    num_train: Count
    num_validation: Count
    num_test: Count
    deployed_reason: str = ""  # not in older runs
    leader: Count | None
    statistics: dict[str, float | list[float]] = {}
    validation: Evaluated | None
    parameters: dict[str, int]
    seconds: Seconds

    @model_validator(mode="after")
    def _check_leader(self, info: ValidationInfo) -> FinishedSummary:
        for key in [f"train_{each.key}" for each in _declared(info)[:1]]:
            if key not in (self.model_extra or {}):
                raise ValueError(f"the figure {key} is missing")
            _require_numbers(self.model_extra or {}, [key])
        if self.leader is not None and self.leader >= len(self.students):
            raise ValueError("leader is none of the students")
        entropy = self.statistics.get("attention_entropy", 0.0)
        if not isinstance(entropy, (int, float)):
            raise ValueError("statistics.attention_entropy is no number")
        return self


class SplitRecord(Content):
    samples: Count
    order: str
    classes: dict[str, list[Any]]


class DataRecord(Content):
    """``data.json``: identifies the data that a run was started with."""

    classes: list[str]
    preparation: dict[str, Any]
    splits: dict[str, SplitRecord]


class Environment(Content):
    """``environment.json``."""

    versions: dict[str, str] = {}
    device: str = ""
    threads: int = 1
    processes: int = 1
    command: list[str] = []
