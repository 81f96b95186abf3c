"""The plan and jobs of a comparison, and the paths in its folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.recipe import Recipe
from coterie.run_folder import RunFolder
from coterie.run_schema import Content


class PlanContent(Content):
    """``plan.json``."""

    reference: str
    seeds: list[int]
    arms: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """One training: an arm with a seed."""

    label: str
    seed: int
    recipe: Recipe


@dataclass(frozen=True)
class Plan:
    """Arms by label (the seeds in their recipes are ignored), seeds, and the arm that the others are compared with."""

    arms: dict[str, Recipe]
    seeds: tuple[int, ...]
    reference: str

    def jobs(self) -> list[Job]:
        """Returns every training, ordered by seed, then by arm, so that an interrupted comparison is balanced."""
        return [
            Job(label, seed, recipe.model_copy(update={"seed": seed}))
            for seed in self.seeds
            for label, recipe in self.arms.items()
        ]


class ComparisonFolder:
    """Paths of one comparison."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.plan = self.path / "plan.json"
        self.comparison = self.path / "comparison.json"
        self.report = self.path / "report.html"
        self.lock = self.path / ".lock"

    @property
    def is_comparison(self) -> bool:
        return self.plan.is_file()

    def runs(self, label: str) -> Path:
        """Returns the folder of an arm's runs."""
        return self.path / "runs" / file_name(label)

    def has_begun(self, label: str) -> bool:
        """Whether a run of an arm was started; one that failed earlier, on an invalid setting, does not count."""
        return next(self.runs(label).glob("seed*/recipe.yaml"), None) is not None

    def run(self, job: Job) -> Path:
        """Returns the run folder of a job."""
        return self.runs(job.label) / f"seed{job.seed}"

    def marker(self, job: Job) -> Path:
        """Returns the path of the file that exists while a job is in progress; its text says what the job waits for, if anything."""
        return self.run(job).with_suffix(".running")

    def is_done(self, job: Job) -> bool:
        """Whether a run is finished, or failed since the comparison was started."""
        return self.failure(job).is_file() or RunFolder(self.run(job)).read_summary().get("status") == "finished"

    def failure(self, job: Job) -> Path:
        """Returns the path of the file with the error of a failed job."""
        return self.run(job).with_suffix(".error")


def file_name(label: str) -> str:
    """Converts an arm's label to the name of its folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip(".-") or "arm"
