"""The files of a run folder: what is where, and the metrics that are appended to while training goes on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.documents import parse_json
from coterie.errors import CoterieError, RunError
from coterie.files import reason_of, write_text


class RunFolder:
    """Paths of one run, see the run folder's schema in the documentation."""

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
        """Return itself.

        Raises:
            CoterieError: the folder does not hold a run.
        """
        if not self.is_run:
            raise CoterieError(
                f"{str(self.path)!r} is not a run: expected a folder with recipe.yaml, written by `coterie train`"
            )
        return self

    def begin(self) -> None:
        """Make the folders that a training writes to; from now on it is noticed where they are moved or removed."""
        self.last.parent.mkdir(parents=True, exist_ok=True)
        self._place = os.stat(self.path)

    def require_place(self) -> None:
        """To be asked before writing to a folder in which a training has begun.

        Raises:
            RunError: the folder was moved or removed; nothing is written to one that has come in its place.
        """
        try:
            if self._place is None or os.path.samestat(self._place, os.stat(self.path)):
                return
        except OSError:
            pass
        raise RunError(f"the run's folder {str(self.path)!r} was moved or removed while it was trained")

    def clear_leftovers(self) -> None:
        """Remove what a killed process left: temporary files, and metrics where there is no checkpoint to go on from."""
        for temporary in [
            *self.path.glob(".*.tmp"),
            *self.path.glob(".tmp??????"),  # safetensors'
            *self.last.parent.glob(".*.tmp"),
        ]:
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()
        if not self.last.is_file():
            self.metrics.unlink(missing_ok=True)

    def read_summary(self) -> dict[str, Any]:
        """The summary, or an empty one where there is none yet."""
        return read_json(self.summary) if self.summary.is_file() else {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CoterieError: the file is missing or damaged.
    """
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CoterieError(f"cannot read {str(path)!r}: {error}") from None
    if not isinstance(value, dict):
        raise CoterieError(f"{str(path)!r} is damaged: expected a JSON object")
    return value


class MetricsLog:
    """``metrics.jsonl``: one row a line, flushed as it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
        except OSError as error:
            reason = reason_of(error, self.path.parent)
            raise RunError(f"cannot write {str(self.path)!r}: {reason}") from error

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows; a last line that a kill cut short is left out."""
        rows: list[dict[str, Any]] = []
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except ValueError:
                    break
        return rows

    def cut_back(self, step: int, epoch: int) -> list[dict[str, Any]]:
        """Drop what was written after a checkpoint: training rows beyond ``step``, evaluations of ``epoch`` and later.

        Returns:
            The rows that stay.
        """
        kept = [
            row
            for row in self.rows()
            if (row["split"] == "train" and row["step"] <= step) or (row["split"] != "train" and row["epoch"] < epoch)
        ]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        return kept
