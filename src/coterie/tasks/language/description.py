"""Schema of ``student.json`` of a language modeling run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from coterie.run_schema import LARGEST_LENGTH, Content, Count, Student


class LanguageTeacherNote(Content):
    network: str
    config: dict[str, Any]


class LanguageStudent(Student):
    """``vocabulary``: number of logits that were compared, counted from the first; null: all. ``length``: tokens per row."""

    task: Literal["language_modeling"]
    config: dict[str, Any]
    configs: list[dict[str, Any]] = Field(min_length=1)
    vocabulary: Count | None
    length: Annotated[int, Field(ge=2, le=LARGEST_LENGTH)]
    teachers: list[LanguageTeacherNote] = Field(default_factory=list)
