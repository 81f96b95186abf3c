"""The files of a run folder: their paths, and the metrics log that training appends to."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.documents import parse_json, read_text
from coterie.errors import CoterieError, RunError
from coterie.files import reason_of, write_text
from coterie.run_schema import (
    Content,
    DataRecord,
    Environment,
    Summary,
    TrainRow,
    ValidationRow,
    validated,
)
from coterie.tasks import UNNAMED, find_part, known_tasks

LARGEST_JSON = 2**28  # bytes


class RunFolder:
    """Paths of one run. The documentation describes the schema of a run folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.data = self.path / "data.json"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"
        self.predictions = self.path / "predictions.safetensors"
        self.gallery = self.path / "gallery"
        self.last = self.path / "checkpoint" / "last.pt"
        self.best = self.path / "checkpoint" / "best.pt"
        self.student = self.path / "student.safetensors"
        self.student_description = self.path / "student.json"
        self.tokenizer = self.path / "tokenizer"  # of a text run
        self.report = self.path / "report.html"
        self.lock = self.path / ".lock"
        self._place: os.stat_result | None = None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def is_run(self) -> bool:
        return self.recipe.is_file()

    def require(self) -> RunFolder:
        """Return itself if the folder holds a run.

        Raises:
            CoterieError: the folder does not hold a run.
        """
        if not self.is_run:
            raise CoterieError(
                f"{str(self.path)!r} is not a run: expected a folder with recipe.yaml, written by `coterie train`"
            )
        return self

    def begin(self) -> None:
        """Create the folders that training writes to, and remember their identity for :meth:`require_place`."""
        self.last.parent.mkdir(parents=True, exist_ok=True)
        self._place = os.stat(self.path)

    def require_place(self) -> None:
        """Checks that the folder is still the one in which training began. Call this before each write.

        Raises:
            RunError: the folder was moved or removed; nothing is written to a folder that has replaced it.
        """
        try:
            if self._place is None or os.path.samestat(self._place, os.stat(self.path)):
                return
        except OSError:
            pass
        raise RunError(f"the run's folder {str(self.path)!r} was moved or removed while it was trained")

    def clear_leftovers(self) -> None:
        """Remove what a killed process left: temporary files, and the metrics if there is no checkpoint to resume from."""
        for temporary in [
            *self.path.glob(".*.tmp"),
            *self.path.glob(".tmp??????"),  # safetensors'
            *self.last.parent.glob(".*.tmp"),
        ]:
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()
        if not self.last.is_file():
            self.metrics.unlink(missing_ok=True)

    def read_summary(self) -> dict[str, Any]:
        """Reads ``summary.json``; an empty dict if it does not exist yet.

        Raises:
            CoterieError: the file is damaged.
        """
        return read_checked(Summary, self.summary) if self.summary.is_file() else {}

    def read_description(self) -> dict[str, Any]:
        """Reads ``student.json``.

        Raises:
            CoterieError: the file is missing or damaged. If the run is not finished, the message says how to resume it.
        """
        if not self.student_description.is_file():
            status = self.read_summary().get("status", "running")
            if status != "finished":
                raise CoterieError(
                    f"the run {str(self)!r} is not finished (status: {status}); go on with `coterie train --resume --output {self}`"
                )
        found = read_json(self.student_description)
        task = found.get("task", UNNAMED)
        if task not in known_tasks():
            raise CoterieError(
                f"{str(self.student_description)!r} cannot be read: its task is {str(task)[:80]!r}, expected one of {', '.join(known_tasks())}"
            )
        kind = find_part(task, "description")
        validated(kind, found, self.student_description)
        return found

    def read_data(self) -> dict[str, Any]:
        """Reads ``data.json``, which identifies the data that the run was started with.

        Raises:
            CoterieError: the file is missing or damaged.
        """
        return read_checked(DataRecord, self.data)

    def read_environment(self) -> dict[str, Any]:
        """Reads ``environment.json``; an empty dict if it does not exist.

        Raises:
            CoterieError: the file is damaged.
        """
        return read_checked(Environment, self.environment) if self.environment.is_file() else {}


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Raises:
        CoterieError: the file is missing or damaged.
    """
    try:
        value = parse_json(read_text(path, LARGEST_JSON))
    except OSError as error:
        raise CoterieError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except ValueError as error:
        raise CoterieError(f"{str(path)!r} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise CoterieError(f"{str(path)!r} is damaged: expected a JSON object")
    return value


def read_checked(model: type[Content], path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file and validates it against a model; the object is returned unchanged.

    Raises:
        CoterieError: the file is missing or damaged.
    """
    value = read_json(path)
    validated(model, value, path)
    return value


class MetricsLog:
    """``metrics.jsonl``: one row per line, written at once.

    Args:
        path: path of the file.
        task: the task whose figures the evaluations hold.
    """

    def __init__(self, path: Path, task: str = UNNAMED) -> None:
        self.path, self.task = path, task

    def append(self, row: Mapping[str, Any]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
        except OSError as error:
            reason = reason_of(error, self.path.parent)
            raise RunError(f"cannot write {str(self.path)!r}: {reason}") from error

    def rows(self) -> list[dict[str, Any]]:
        """Reads all complete rows; an incomplete last line, left by a killed process, is skipped.

        Raises:
            CoterieError: the file is damaged elsewhere.
        """
        rows: list[dict[str, Any]] = []
        lines = self._text().splitlines(keepends=True)
        for number, line in enumerate(lines):
            try:
                row = parse_json(line)
            except ValueError:
                if number + 1 == len(lines) and not line.endswith("\n"):
                    break
                raise CoterieError(f"{str(self.path)!r} is damaged: line {number + 1} is no row of figures") from None
            is_evaluation = isinstance(row, dict) and row.get("split") == "validation"
            validated(ValidationRow if is_evaluation else TrainRow, row, self.path, self.task)
            rows.append(row)
        return rows

    def _text(self) -> str:
        if not self.path.is_file():
            return ""
        try:
            return self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CoterieError(f"{str(self.path)!r} is damaged: {error}") from None

    def cut_back(self, step: int, epoch: int) -> list[dict[str, Any]]:
        """Drop rows that were written after a checkpoint: training rows beyond ``step``, evaluations of ``epoch`` and later.

        Returns:
            The rows that are kept.
        """
        kept = [
            row
            for row in self.rows()
            if (row["split"] == "train" and row["step"] <= step) or (row["split"] != "train" and row["epoch"] < epoch)
        ]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        return kept
